//! Where a token may go, whoever hands it over.

use std::sync::Arc;

use defender_mock::{Grant, Mock};
use host_demo::cloud::{Cloud, Service};
use host_demo::host::{CallError, Host, Setup, WaitOptions};
use host_demo::identity::{FixedToken, IdentityError};
use host_demo::policy::Policy;
use host_demo::transport::SetupError;
use tests::world::real_plugin;

const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

fn host(setup: Setup) -> Host {
    Host::new(real_plugin(), &setup.build().unwrap())
}

/// The setup for a service, with a fixed token for the commercial cloud.
async fn setup(service: Service) -> Setup {
    let mock = Mock::start().await.unwrap();
    let token = FixedToken::new(&mock.token(Grant::new())).unwrap();
    Setup::new(service, Arc::new(token))
}

#[tokio::test]
async fn a_token_at_hand_does_not_leave_for_another_cloud_or_a_service_of_ones_own() {
    let own = own_service();
    for service in [
        own,
        Service::of(Cloud::Gcc, None).unwrap(),
        Service::of(Cloud::Dod, None).unwrap(),
    ] {
        let (origin, scope) = (service.origin().to_string(), service.scope().to_owned());
        let host = host(setup(service).await);
        let result = host
            .unrestrict_code_execution(MACHINE, "x", WaitOptions::default())
            .await;
        let expected = IdentityError::NotForThisService {
            audience: "https://api.securitycenter.microsoft.com".to_owned(),
            origin,
            scope,
        };
        assert_eq!(result, Err(CallError::Identity(expected)));
    }
}

fn own_service() -> Service {
    let own = "https://defender.example.test";
    Service::custom(own, "https://login.example.test", "https://x/.default").unwrap()
}

#[tokio::test]
async fn a_service_of_ones_own_gets_tokens_of_its_own_scope_only() {
    let mock = Mock::start().await.unwrap();
    for (audience, is_sent) in [
        ("https://x", true),
        ("https://graph.microsoft.com", false),
        ("https://management.azure.com", false),
        ("https://api.security.microsoft.com", false),
        ("00000003-0000-0000-c000-000000000000", false),
        ("api://somebody-else", false),
    ] {
        let token = mock.token(Grant::new().audience(audience));
        let token = Arc::new(FixedToken::new(&token).unwrap());
        let host = host(Setup::new(own_service(), token));
        let result = host
            .unrestrict_code_execution(MACHINE, "x", WaitOptions::default())
            .await;
        let refused = matches!(
            &result,
            Err(CallError::Identity(IdentityError::NotForThisService { .. }))
        );
        // The name has no address: what is sent does not arrive.
        assert_eq!(!refused, is_sent, "{audience}: {result:?}");
    }
}

#[tokio::test]
async fn a_policy_for_another_origin_than_the_services_makes_no_host() {
    let elsewhere = "https://defender.example.test".parse().unwrap();
    let mut setup = setup(Service::commercial()).await;
    setup.policy = Policy::release_and_read(elsewhere);
    assert!(matches!(setup.build(), Err(SetupError::OtherOrigin { .. })));
}
