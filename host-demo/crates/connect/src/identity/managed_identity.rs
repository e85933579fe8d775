//! Managed identity: the machine that this runs on vouches for it.
//!
//! `azure_identity` knows the virtual machine's metadata service and App Service, and which of them
//! it is by the variables `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`, which the platform sets and
//! that library reads itself. It refuses Azure Arc, Cloud Shell, Azure ML and Service Fabric.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::TokenCredential as _;
use azure_identity::{ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId};
use http::StatusCode;

use super::client_credentials::bearer;
use super::fetch::{Fetch, Fetched};
use super::token_endpoint::{Endpoint, Failure, Whom};
use super::{IdentityError, Method};
use crate::cloud::Service;
use crate::transport::{Transport, TransportErrorKind};
use defender_core::clock::Clock;
use defender_core::origin::Origin;

/// Who is asked, for people.
const AUTHORITY: &str = "the machine's identity endpoint";

pub(super) struct Managed {
    /// The application id of a user-assigned identity; without it, the machine's own.
    pub(super) client_id: Option<String>,
    /// In place of the metadata service.
    pub(super) instead: Option<Origin>,
    pub(super) service: Service,
    pub(super) transport: Transport,
    pub(super) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Fetch for Managed {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        let endpoint = Endpoint::new(
            &self.transport,
            Whom::Machine(self.instead.clone()),
            &self.clock,
        );
        let options = ManagedIdentityCredentialOptions {
            user_assigned_id: self.client_id.clone().map(UserAssignedId::ClientId),
            client_options: endpoint.options(),
        };
        let credential = ManagedIdentityCredential::new(Some(options))
            .map_err(|error| not_available(error.to_string()))?;
        let (asked, wall) = (self.clock.now(), self.clock.wall());
        let token = credential
            .get_token(&[self.service.scope()], None)
            .await
            .map_err(|error| explain(endpoint.failure(&error)))?;
        // The answer says until when it holds, on the calendar.
        let seconds = token.expires_on.unix_timestamp() - wall.as_second();
        let lifetime = Duration::from_secs(seconds.try_into().unwrap_or_default());
        Ok(Fetched {
            token: bearer(&token)?,
            expires: asked + lifetime,
        })
    }
}

fn not_available(why: String) -> IdentityError {
    IdentityError::NotAvailable {
        method: Method::ManagedIdentity,
        why,
    }
}

/// A machine without the endpoint, or without an identity, is no failure of the endpoint's.
fn explain(failure: Failure) -> IdentityError {
    use TransportErrorKind as Kind;
    match failure {
        Failure::NoAnswer(error)
            if matches!(error.kind, Kind::Refused | Kind::ConnectTimeout | Kind::Dns) =>
        {
            not_available(format!(
                "this is no Azure machine with an identity ({error})"
            ))
        }
        // Microsoft, "How to use managed identities for Azure resources on an Azure VM to acquire
        // an access token", error handling.
        Failure::Refused(refusal, told)
            if told.status == StatusCode::BAD_REQUEST
                && refusal.error_description.starts_with("Identity not found") =>
        {
            not_available("this machine has no such identity assigned to it".to_owned())
        }
        // While it is updated; 410 for up to 70 s. (By the same page.)
        Failure::Refused(_, told) | Failure::Failed(told)
            if [StatusCode::NOT_FOUND, StatusCode::GONE].contains(&told.status) =>
        {
            failure.into_busy(AUTHORITY)
        }
        other => other.into_error(AUTHORITY),
    }
}
