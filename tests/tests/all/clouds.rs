//! Where a token may go, whoever hands it over.

use std::sync::Arc;

use host_demo::cloud::{Cloud, Service};
use host_demo::host::{CallError, Patience, Setup};
use host_demo::identity::{FixedToken, IdentityError};
use host_demo::mock::{Grant, Mock};
use host_demo::policy::Policy;
use host_demo::transport::SetupError;
use tests::world::real_plugin;

const MACHINE: &str = "1e5bc9d7e413ddd7902c2932e418702b84d0cc07";

/// A host for a service, with a token for the commercial cloud, as a file may hold one.
async fn setup(service: Service) -> Setup {
    let mock = Mock::start().await.unwrap();
    let token = FixedToken::new(&mock.token(Grant::new())).unwrap();
    Setup::new(real_plugin(), service, Arc::new(token))
}

#[tokio::test]
async fn a_token_at_hand_does_not_leave_for_another_cloud_or_a_service_of_ones_own() {
    let own = "https://defender.example.test";
    let own = Service::custom(own, "https://login.example.test", "https://x/.default").unwrap();
    for service in [
        own,
        Service::of(Cloud::Gcc, None).unwrap(),
        Service::of(Cloud::Dod, None).unwrap(),
    ] {
        let origin = service.origin().to_string();
        let host = setup(service).await.build().unwrap();
        let result = host
            .unrestrict_code_execution(MACHINE, "x", Patience::default())
            .await;
        let expected = IdentityError::NotForThisService {
            audience: "https://api.securitycenter.microsoft.com".to_owned(),
            origin,
        };
        assert_eq!(result, Err(CallError::Identity(expected)));
    }
}

#[tokio::test]
async fn a_policy_for_another_origin_than_the_services_makes_no_host() {
    let elsewhere = "https://defender.example.test".parse().unwrap();
    let mut setup = setup(Service::commercial()).await;
    setup.policy = Policy::release_and_read(elsewhere);
    assert!(matches!(setup.build(), Err(SetupError::OtherOrigin { .. })));
}
