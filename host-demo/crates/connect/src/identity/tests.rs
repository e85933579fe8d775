//! Each way to a token, against the stand-in, over TLS where the real one has it.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, KeyPair};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::cloud::Service;
use defender_core::clock::{Clock, ManualClock};
use defender_mock::{Api, Builder, Fault, Federation, Mock, Switches, UserSignIn};

const KEY: &str = include_str!("tests/key.pem");
const MINUTE: Duration = Duration::from_secs(60);

fn certificate(key: &KeyPair) -> rcgen::Certificate {
    CertificateParams::default().self_signed(key).unwrap()
}

/// The test key, with a certificate.
fn application() -> rcgen::Certificate {
    certificate(&KeyPair::from_pem(KEY).unwrap())
}

struct World {
    mock: Mock,
    clock: ManualClock,
    service: Service,
    settings: Settings,
}

impl World {
    async fn new(bend: impl FnOnce(Builder) -> Builder) -> Self {
        let clock = ManualClock::new();
        let builder = Mock::builder().clock(Arc::new(clock.clone()));
        let mock = bend(builder).start().await.unwrap();
        let mut service =
            Service::custom(mock.base_url(), mock.authority(), &mock.scope()).unwrap();
        if let Some(ca) = mock.ca_pem() {
            service = service.with_ca(ca.as_bytes().to_vec());
        }
        let settings = Settings {
            tenant_id: Some(mock.tenant_id().to_owned()),
            client_id: Some(mock.client_id().to_owned()),
            ..Settings::default()
        };
        Self {
            mock,
            clock,
            service,
            settings,
        }
    }

    async fn with_secret() -> Self {
        let mut world = Self::new(|mock| mock).await;
        world.settings.client_secret = Some(world.mock.client_secret().to_owned());
        world
    }

    fn try_identity(&self, method: Method) -> Result<Identity, IdentityError> {
        let clock = Arc::new(self.clock.clone());
        Identity::new(method, self.settings.clone(), &self.service, clock)
    }

    fn identity(&self, method: Method) -> Identity {
        self.try_identity(method).unwrap()
    }

    fn fetches(&self) -> usize {
        self.mock.arrivals(Api::Token)
    }

    /// Drives a future to its end; the clock goes on to whatever moment is waited for.
    async fn play<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                () = tokio::task::yield_now() => {}
            }
            if let Some(wake) = self.clock.next_wake() {
                self.clock.advance(wake.since(self.clock.now()));
            }
        }
    }
}

fn advice(error: &IdentityError) -> (&str, &str) {
    match error {
        IdentityError::Refused { error, advice, .. } => (error, advice.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_method_has_one_name() {
    for method in Method::ALL {
        assert_eq!(method.to_string().parse(), Ok(method));
    }
    assert_eq!(
        "password".parse::<Method>().unwrap_err().to_string(),
        "unknown sign-in method \"password\"; use one of: client-secret, client-certificate, \
         workload-identity, managed-identity, azure-cli, device-code, default"
    );
}

#[tokio::test]
async fn a_secret_earns_a_token_that_is_fetched_once_however_many_wait() {
    let world = World::with_secret().await;
    let identity = Arc::new(world.identity(Method::ClientSecret));
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let identity = Arc::clone(&identity);
            tokio::spawn(async move { identity.token().await })
        })
        .collect();
    for token in waiting {
        let token = token.await.unwrap().unwrap();
        assert_eq!(
            token.claims().application.as_deref(),
            Some(world.mock.client_id())
        );
    }
    assert_eq!(world.fetches(), 1);
    let principal = identity.principal().await.unwrap();
    assert_eq!(principal.tenant, world.mock.tenant_id());
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_and_one_that_holds_outlives_a_failed_renewal() {
    let world = World::with_secret().await;
    let identity = world.identity(Method::ClientSecret);
    let first = identity.token().await.unwrap();
    world.clock.advance(Duration::from_secs(3599 - 301));
    assert!(identity.token().await.unwrap().is(&first));
    assert_eq!(world.fetches(), 1);

    world.clock.advance(Duration::from_secs(2));
    world.mock.inject(Fault::server_error(503).on(Api::Token));
    assert!(identity.token().await.unwrap().is(&first), "it still holds");
    assert_eq!(
        world.fetches(),
        2,
        "and was asked for once, without a retry"
    );
    assert!(identity.token().await.unwrap().is(&first));
    assert_eq!(world.fetches(), 2, "the authority has a rest");

    world.clock.advance(Duration::from_secs(31));
    assert!(!identity.token().await.unwrap().is(&first));
    assert_eq!(world.fetches(), 3);
}

#[tokio::test]
async fn without_a_token_that_holds_a_failure_is_the_callers() {
    let world = World::with_secret().await;
    let identity = world.identity(Method::ClientSecret);
    identity.token().await.unwrap();
    world.clock.advance(Duration::from_secs(3599));
    world.mock.inject(Fault::server_error(503).on(Api::Token));
    let error = identity.token().await.unwrap_err();
    assert!(matches!(error, IdentityError::Busy { .. }), "{error}");
    assert_eq!(identity.token().await.unwrap_err(), error);
    assert_eq!(world.fetches(), 2, "the authority is left alone");
    let retry = identity.retry().unwrap();
    let wait = retry.at.since(world.clock.now());
    let second = Duration::from_secs(1);
    assert!(retry.failures == 1 && wait >= second && wait < second * 5 / 4);
    world.clock.advance(wait);
    assert!(identity.token().await.is_ok());
    assert_eq!(identity.retry(), None);
}

#[tokio::test]
async fn a_short_lived_token_is_used_for_three_quarters_of_its_time() {
    let mut world = World::new(|mock| {
        mock.switches(Switches {
            token_lifetime: 8 * Duration::from_secs(1),
            ..Switches::default()
        })
    })
    .await;
    world.settings.client_secret = Some(world.mock.client_secret().to_owned());
    let identity = world.identity(Method::ClientSecret);
    let first = identity.token().await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    assert!(identity.token().await.unwrap().is(&first));
    world.clock.advance(Duration::from_secs(2));
    assert!(!identity.token().await.unwrap().is(&first));
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn a_failed_renewal_rests_no_longer_than_the_token_holds() {
    let mut world = World::new(|mock| {
        mock.switches(Switches {
            token_lifetime: 8 * Duration::from_secs(1),
            ..Switches::default()
        })
    })
    .await;
    world.settings.client_secret = Some(world.mock.client_secret().to_owned());
    let identity = world.identity(Method::ClientSecret);
    let first = identity.token().await.unwrap();
    world.clock.advance(Duration::from_secs(7));
    world.mock.inject(Fault::server_error(503).on(Api::Token));
    assert!(identity.token().await.unwrap().is(&first));
    world.clock.advance(Duration::from_secs(3));
    assert!(!identity.token().await.unwrap().is(&first));
}

#[tokio::test]
async fn those_who_wait_for_a_fetch_that_fails_share_its_error() {
    let world = World::with_secret().await;
    let identity = Arc::new(world.identity(Method::ClientSecret));
    world
        .mock
        .inject(Fault::server_error(503).on(Api::Token).always());
    let ask = || {
        let identity = Arc::clone(&identity);
        tokio::spawn(async move { identity.token().await })
    };
    for waiting in (0..20).map(|_| ask()).collect::<Vec<_>>() {
        assert!(waiting.await.unwrap().is_err());
    }
    assert_eq!(world.fetches(), 1);
    world.clock.advance(Duration::from_secs(2));
    assert!(ask().await.unwrap().is_err());
    assert_eq!(world.fetches(), 2, "who comes later asks anew");
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once_and_only_if_nobody_else_has() {
    let world = World::with_secret().await;
    let identity = world.identity(Method::ClientSecret);
    let first = identity.token().await.unwrap();
    let (one, other) = tokio::join!(identity.renew(&first), identity.renew(&first));
    assert_eq!((one, other), (Ok(true), Ok(true)));
    assert_eq!(world.fetches(), 2, "the second one found it replaced");
    let second = identity.token().await.unwrap();
    assert!(!second.is(&first));

    assert_eq!(
        identity.renew(&second).await,
        Ok(false),
        "a fresh one was refused, too"
    );
    assert_eq!(world.fetches(), 2);
    world.clock.advance(6 * MINUTE);
    assert_eq!(identity.renew(&second).await, Ok(true));
    assert_eq!(world.fetches(), 3);
}

#[tokio::test]
async fn a_fixed_token_is_not_replaced() {
    let token = FixedToken::new("abc").unwrap();
    assert_eq!(token.renew(&token.token().await.unwrap()).await, Ok(false));
}

#[tokio::test]
async fn entras_refusals_come_with_what_to_do_and_without_the_secret() {
    let mut world = World::with_secret().await;
    world.settings.client_secret = Some("s3cret-of-another".to_owned());
    let error = world
        .identity(Method::ClientSecret)
        .token()
        .await
        .unwrap_err();
    let (text, to_do) = advice(&error);
    assert!(
        text.starts_with("AADSTS7000215: Invalid client secret provided."),
        "{text}"
    );
    assert!(to_do.contains("the secret's value, not its id"), "{to_do}");
    for shown in [
        format!("{error} {error:?}"),
        format!("{:?}", world.settings),
    ] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    world.settings.tenant_id = Some("fabrikam".to_owned());
    let error = world
        .identity(Method::ClientSecret)
        .token()
        .await
        .unwrap_err();
    assert!(advice(&error).0.starts_with("AADSTS90002"), "{error}");
}

#[tokio::test]
async fn what_an_authority_repeats_of_a_request_is_shown_without_its_secret() {
    let secret = "s3cr3t+with/ \"all\" of=it";
    let mut world = World::with_secret().await;
    world.settings.client_secret = Some(secret.to_owned());
    let url_encoded = "s3cr3t%2Bwith%2F+%22all%22%20of%3Dit";
    let json_escaped = r#"s3cr3t\u002bwith\/ \"all\" of=it"#;
    for repeated in [secret, url_encoded, json_escaped] {
        for document in [
            json!({ "error": "invalid_client", "error_description": format!("bad: {repeated}.") }),
            json!({ "error": format!("no {repeated}") }),
        ] {
            let fault = Fault::answer(401, document.to_string());
            world.mock.inject(fault.on(Api::Token));
            let error = world
                .identity(Method::ClientSecret)
                .token()
                .await
                .unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains("****") && !shown.contains("s3cr3t"),
                "{shown}"
            );
        }
    }
    // An answer that the library can't read, and quotes.
    let document = json!({ "token_type": "Bearer", "expires_in": secret, "access_token": "x" });
    let fault = Fault::answer(200, document.to_string());
    world.mock.inject(fault.on(Api::Token));
    let error = world
        .identity(Method::ClientSecret)
        .token()
        .await
        .unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("s3cr3t"), "{shown}");
}

#[tokio::test]
async fn a_lifetime_that_no_token_has_is_an_error_and_no_end_of_the_program() {
    let world = World::with_secret().await;
    let day = 24 * 60 * 60;
    for (expires_in, is_one) in [
        (json!(0), true),
        (json!(3599), true),
        (json!(day), true),
        (json!(-1), false),
        (json!(1e14), false),
        (json!(99_999_999_999_999_u64), false),
        (json!(i64::MIN), false),
        (json!(u64::MAX), false),
        (json!("99999999999999"), false),
        (json!("soon"), false),
        (json!([]), false),
        (json!(null), false),
    ] {
        let document = json!({
            "token_type": "Bearer",
            "expires_in": expires_in,
            "ext_expires_in": expires_in,
            "access_token": "x",
        });
        let fault = Fault::answer(200, document.to_string());
        world.mock.inject(fault.on(Api::Token));
        match world.identity(Method::ClientSecret).token().await {
            Ok(_) => assert!(is_one, "{expires_in}"),
            Err(error) => {
                let is_told = matches!(error, IdentityError::NotAnAnswer { .. });
                assert!(!is_one && is_told, "{expires_in}: {error:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_assertion_that_the_authority_repeats_is_not_shown() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "eyJhbGciOiJub25lIn0.e30.c2ln").unwrap();
    let mut world = World::new(trusting).await;
    world.settings.federated_token_file = Some(file);
    let document = json!({
        "error": "invalid_request",
        "error_description": "AADSTS50027: JWT eyJhbGciOiJub25lIn0.e30.c2ln is invalid.",
        "error_codes": [50_027],
    });
    let fault = Fault::answer(400, document.to_string());
    world.mock.inject(fault.on(Api::Token));
    let identity = world.identity(Method::WorkloadIdentity);
    let error = identity.token().await.unwrap_err();
    let (text, _) = advice(&error);
    assert_eq!(text, "AADSTS50027: JWT **** is invalid. (invalid_request)");
}

// Authorities.

#[tokio::test]
async fn what_entra_alone_can_issue_is_not_asked_for_a_service_with_another_authority() {
    let mut world = World::with_secret().await;
    world.settings = Settings::default();
    let entra = "https://login.microsoftonline.us";
    for (authority, is_had) in [(entra, true), ("https://login.contoso.com", false)] {
        let base = "https://soar.contoso.com";
        world.service = Service::custom(base, authority, "api://contoso/.default").unwrap();
        for method in [Method::ManagedIdentity, Method::AzureCli] {
            match world.try_identity(method) {
                Ok(_) => assert!(is_had, "{method} at {authority}"),
                Err(error) => {
                    assert!(!is_had, "{method} at {authority}: {error}");
                    let expected = format!(
                        "{method} can't be used here: its tokens come from Microsoft Entra, and \
                         this service takes those of {authority}"
                    );
                    assert_eq!(error.to_string(), expected);
                }
            }
        }
    }
    // Nor does the search for a credential end up with one of them.
    let error = world.identity(Method::Default).token().await.unwrap_err();
    assert!(
        matches!(error, IdentityError::NoneAvailable(_)),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_not_set_is_named() {
    let mut world = World::with_secret().await;
    world.settings.tenant_id = None;
    world.settings.client_secret = None;
    for (method, why) in [
        (
            Method::ClientSecret,
            "the tenant id, the client secret are not set",
        ),
        (
            Method::ClientCertificate,
            "the tenant id, the certificate are not set",
        ),
        (
            Method::WorkloadIdentity,
            "the tenant id, the federated token's file are not set",
        ),
        (
            Method::DeviceCode,
            "a way to show a person the code is not set",
        ),
    ] {
        let error = world.try_identity(method).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{method} can't be used here: {why}")
        );
    }
}

// Certificates.

#[tokio::test]
async fn a_certificate_earns_a_token_with_a_new_assertion_each_time() {
    let certificate = application();
    let mut world = World::new(|mock| mock.certificate(certificate.der().to_vec())).await;
    world.settings.certificate = Some(format!("{KEY}{}", certificate.pem()).into());
    let identity = world.identity(Method::ClientCertificate);
    for fetches in 1..4 {
        let token = identity.token().await.unwrap();
        assert_eq!(
            token.claims().application.as_deref(),
            Some(world.mock.client_id())
        );
        // The stand-in refuses an assertion that it has seen.
        assert_eq!(world.fetches(), fetches);
        world.clock.advance(60 * MINUTE);
    }
}

#[tokio::test]
async fn a_certificate_that_the_application_does_not_have_is_refused_with_what_to_do() {
    // The same key in another certificate, and none at all.
    let another = CertificateParams::new(vec!["another.example".to_owned()]).unwrap();
    let another = another
        .self_signed(&KeyPair::from_pem(KEY).unwrap())
        .unwrap();
    for registered in [Some(another), None] {
        let mut world = World::new(|mock| match registered {
            Some(certificate) => mock.certificate(certificate.der().to_vec()),
            None => mock,
        })
        .await;
        world.settings.certificate = Some(format!("{KEY}{}", application().pem()).into());
        let error = world
            .identity(Method::ClientCertificate)
            .token()
            .await
            .unwrap_err();
        let (text, to_do) = advice(&error);
        assert!(text.starts_with("AADSTS700027"), "{text}");
        assert!(to_do.contains("upload the certificate"), "{to_do}");
    }
}

#[tokio::test]
async fn an_unusable_certificate_is_an_error_before_anything_is_sent() {
    let mut world = World::new(|mock| mock).await;
    world.settings.certificate = Some(application().pem().into());
    for method in [Method::ClientCertificate, Method::Default] {
        let error = world.try_identity(method).unwrap_err();
        let expected = IdentityError::Certificate(CertificateError::NoKey);
        assert_eq!(error, expected, "{method}");
    }
    assert_eq!(world.fetches(), 0);
}

/// `openssl x509 -req -signkey` makes such a one. It is valid from 2020 to 2120, for the test key.
#[tokio::test]
async fn a_certificate_of_version_1_signs_too() {
    let pem = include_str!("tests/version-1.pem");
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut world = World::new(|mock| mock.certificate(der.to_vec())).await;
    world.settings.certificate = Some(format!("{KEY}{pem}").into());
    let identity = world.identity(Method::ClientCertificate);
    identity.token().await.unwrap();
    let credential = identity.credential().await.unwrap();
    assert_eq!(credential.kind, CredentialKind::Certificate);
    let time = |text: &str| Some(text.parse::<jiff::Timestamp>().unwrap());
    assert_eq!(credential.from, time("2020-01-01T00:00:00Z"));
    assert_eq!(credential.until, time("2120-01-01T00:00:00Z"));
}

#[tokio::test]
async fn a_federated_token_says_when_it_expires() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    let mut world = World::new(trusting).await;
    world.settings.federated_token_file = Some(file.clone());
    let token = foreign_token(&world.clock, [ISSUER, SUBJECT, AUDIENCE]);
    // As GitHub's endpoint answers, with a byte order mark.
    std::fs::write(
        &file,
        format!("\u{FEFF}{{\"count\":1,\"value\":\"{token}\"}}\r\n"),
    )
    .unwrap();
    for method in [Method::WorkloadIdentity, Method::Default] {
        let identity = world.identity(method);
        let credential = identity.credential().await.unwrap();
        assert_eq!(credential.kind, CredentialKind::FederatedToken);
        let exp = world.clock.wall().as_second() + 3600;
        assert_eq!(credential.until.map(|until| until.as_second()), Some(exp));
        identity.token().await.unwrap();
    }
}

#[tokio::test]
async fn a_rejected_secret_is_described_and_not_shown() {
    let mut world = World::with_secret().await;
    let right = world.mock.client_secret().to_owned();
    for (secret, described) in [
        (format!("\"{right}\""), "quotation marks"),
        (format!("'{right}'"), "quotation marks"),
        ("4f0c1a52-93d7-4b8e-a6f1-0d2e5b7c8a91".to_owned(), "a GUID"),
        (format!("AZURE_CLIENT_SECRET={right}"), "equals sign"),
        ("${SECRET}".to_owned(), "placeholder"),
        (format!("{right}\\n"), "two characters"),
        (format!("{right} x"), "white space"),
    ] {
        world.settings.client_secret = Some(secret.clone());
        let identity = world.identity(Method::ClientSecret);
        let error = identity.token().await.unwrap_err();
        let (_, to_do) = advice(&error);
        assert!(to_do.starts_with("the client secret is wrong: "), "{to_do}");
        assert!(to_do.contains(described), "{to_do}");
        let told = format!("{error} {error:?}");
        assert!(!told.contains(&secret) && !told.contains(&right), "{told}");
    }
}

// Federation.

const ISSUER: &str = "https://token.issuer.example";
const SUBJECT: &str = "system:serviceaccount:soar:release";
const AUDIENCE: &str = "api://AzureADTokenExchange";

/// What the other issuer gives out.
fn foreign_token(clock: &ManualClock, claims: [&str; 3]) -> String {
    let [issuer, subject, audience] = claims;
    let exp = clock.wall().as_second() + 3600;
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!(
        "{}.{}",
        part(json!({ "alg": "RS256", "kid": "1" })),
        part(json!({ "iss": issuer, "sub": subject, "aud": audience, "exp": exp }))
    );
    let PrivateKeyDer::Pkcs8(key) = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap() else {
        panic!("the key is PKCS #8")
    };
    let key: PrivatePkcs8KeyDer<'_> = key;
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    let random = ring::rand::SystemRandom::new();
    key.sign(
        &RSA_PKCS1_SHA256,
        &random,
        signed.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn trusting(mock: Builder) -> Builder {
    mock.federation(Federation {
        issuer: ISSUER.to_owned(),
        subject: SUBJECT.to_owned(),
        audience: AUDIENCE.to_owned(),
        certificate: application().der().to_vec(),
    })
}

#[tokio::test]
async fn a_federated_token_is_read_from_its_file_for_each_fetch() {
    let mut world = World::new(trusting).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    world.settings.federated_token_file = Some(file.clone());
    let identity = world.identity(Method::WorkloadIdentity);

    let error = identity.token().await.unwrap_err();
    assert!(matches!(error, IdentityError::Unusable(_)), "{error:?}");
    assert!(
        error.to_string().contains(&file.display().to_string()),
        "{error}"
    );

    let valid = foreign_token(&world.clock, [ISSUER, SUBJECT, AUDIENCE]);
    std::fs::write(&file, format!("{valid}\n")).unwrap();
    identity.token().await.unwrap();
    world.clock.advance(120 * MINUTE);
    let error = identity.token().await.unwrap_err();
    assert!(advice(&error).0.starts_with("AADSTS700024"), "{error}");
    let renewed = foreign_token(&world.clock, [ISSUER, SUBJECT, AUDIENCE]);
    std::fs::write(&file, renewed).unwrap();
    identity.token().await.unwrap();
}

#[tokio::test]
async fn a_federated_token_that_fits_nothing_is_refused_with_what_to_compare() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    for (claims, code) in [
        (["https://other.example", SUBJECT, AUDIENCE], "AADSTS700211"),
        (
            [ISSUER, "system:serviceaccount:soar:Release", AUDIENCE],
            "AADSTS700213",
        ),
        ([ISSUER, SUBJECT, "sts.amazonaws.com"], "AADSTS700212"),
    ] {
        let mut world = World::new(trusting).await;
        world.settings.federated_token_file = Some(file.clone());
        let token = foreign_token(&world.clock, claims);
        std::fs::write(&file, &token).unwrap();
        let error = world
            .identity(Method::WorkloadIdentity)
            .token()
            .await
            .unwrap_err();
        let (text, to_do) = advice(&error);
        assert!(text.starts_with(code), "{text}");
        assert!(to_do.contains("issuer, subject and audience"), "{to_do}");
        assert!(!format!("{error} {error:?}").contains(&token[..20]));
    }
    let mut world = World::new(|mock| mock).await;
    world.settings.federated_token_file = Some(file);
    let error = world
        .identity(Method::WorkloadIdentity)
        .token()
        .await
        .unwrap_err();
    assert!(advice(&error).0.starts_with("AADSTS70025"), "{error}");
}

// Managed identity.

async fn machine() -> World {
    let mut world = World::new(|mock| mock.plain_http(true)).await;
    world.settings.metadata_endpoint = Some(world.mock.base_url().parse().unwrap());
    world
}

#[tokio::test]
async fn the_machines_identity_earns_a_token_over_plain_http() {
    let mut world = machine().await;
    for client_id in [None, Some(world.mock.client_id().to_owned())] {
        world.settings.client_id = client_id;
        let identity = world.identity(Method::ManagedIdentity);
        let before = world.mock.arrivals(Api::Metadata);
        let token = identity.token().await.unwrap();
        assert_eq!(token.claims().roles.len(), 2);
        identity.token().await.unwrap();
        assert_eq!(world.mock.arrivals(Api::Metadata), before + 1);
        let principal = identity.principal().await.unwrap();
        assert_eq!(
            principal.application,
            world.mock.client_id(),
            "the token says whose it is"
        );
        world.clock.advance(60 * MINUTE);
        identity.token().await.unwrap();
        assert_eq!(world.mock.arrivals(Api::Metadata), before + 2);
    }
}

#[tokio::test]
async fn a_machine_without_an_identity_is_told_from_one_that_fails() {
    let mut world = machine().await;
    world
        .mock
        .inject(Fault::server_error(500).on(Api::Metadata));
    let identity = world.identity(Method::ManagedIdentity);
    let error = identity.token().await.unwrap_err();
    assert!(matches!(error, IdentityError::Busy { .. }), "{error:?}");
    assert_eq!(world.mock.arrivals(Api::Metadata), 1, "asked once");
    // Microsoft, "How to use managed identities for Azure resources on an Azure VM to acquire an
    // access token", retry guidance.
    let document = r#"{"error":"unknown","error_description":"updating"}"#;
    for (status, is_transient) in [
        (404, true),
        (410, true),
        (429, true),
        (500, true),
        (503, true),
        (400, false),
        (401, false),
    ] {
        for body in ["", document] {
            world
                .mock
                .inject(Fault::answer(status, body).on(Api::Metadata));
            let identity = world.identity(Method::ManagedIdentity);
            let error = identity.token().await.unwrap_err();
            assert_eq!(
                error.is_transient(false),
                is_transient,
                "{status} {error:?}"
            );
        }
    }

    world.settings.client_id = Some("another".to_owned());
    let error = world
        .identity(Method::ManagedIdentity)
        .token()
        .await
        .unwrap_err();
    assert!(
        matches!(error, IdentityError::NotAvailable { .. }),
        "{error:?}"
    );

    // Nothing listens there: the port was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    world.settings.metadata_endpoint = Some(format!("http://{free}").parse().unwrap());
    let error = world
        .identity(Method::ManagedIdentity)
        .token()
        .await
        .unwrap_err();
    assert!(
        matches!(error, IdentityError::NotAvailable { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("this is no Azure machine"),
        "{error}"
    );

    world.settings.metadata_endpoint = Some("https://evil.test".parse().unwrap());
    let error = world.try_identity(Method::ManagedIdentity).unwrap_err();
    assert!(matches!(error, IdentityError::Unusable(_)), "{error:?}");
}

// Azure CLI.

/// A folder with a program `az` in it.
fn az(script: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("az");
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn environment(path: &Path) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), path.into()),
        ("HOME".into(), "/home/ann".into()),
        ("AZURE_CONFIG_DIR".into(), "/home/ann/.azure".into()),
    ];
    for secret in ["AZURE_CLIENT_SECRET", "LD_PRELOAD", "SOAR_TOKEN"] {
        environment.push((secret.into(), "s3cret".into()));
    }
    environment
}

#[tokio::test]
async fn azure_cli_is_asked_in_an_environment_of_its_own() {
    let mut world = World::new(|mock| mock).await;
    let token = world
        .mock
        .token(defender_mock::Grant::new().delegated(["Machine.Read"]));
    let until = world.clock.wall().as_second() + 3600;
    let answer = json!({ "accessToken": token, "expires_on": until, "tokenType": "Bearer" });
    let folder = az(&format!(
        "here=${{0%/*}}\n/usr/bin/env > $here/environment\necho \"$@\" > $here/arguments\n\
         echo '{answer}'"
    ));
    world.settings.environment = environment(folder.path());
    let identity = world.identity(Method::AzureCli);
    let claims = identity.token().await.unwrap().claims().clone();
    assert_eq!(claims.scopes, ["Machine.Read"]);
    assert_eq!(claims.user.as_deref(), Some("analyst@contoso.com"));

    let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(
        read("arguments").trim(),
        format!(
            "account get-access-token -o json --scope {} --tenant {}",
            world.mock.scope(),
            world.mock.tenant_id()
        )
    );
    let seen = read("environment");
    let mut names: Vec<_> = seen
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    // The shell sets the last three itself.
    names.retain(|name| !["OLDPWD", "PWD", "SHLVL", "_"].contains(name));
    let expected = [
        "AZURE_CONFIG_DIR",
        "AZURE_CORE_DISABLE_CONFIRM_PROMPT",
        "HOME",
        "PATH",
    ];
    assert_eq!(names, expected, "{seen}");
    assert_eq!(world.fetches(), 0);
}

#[tokio::test]
async fn azure_cli_before_2_54_gives_the_end_in_local_time() {
    let mut world = World::new(|mock| mock).await;
    let token = world
        .mock
        .token(defender_mock::Grant::new().delegated(["Machine.Read"]));
    // An hour from now, in a zone that is five hours behind.
    let end = world.clock.wall() + 60 * MINUTE - 300 * MINUTE;
    let end = end.strftime("%Y-%m-%d %H:%M:%S.000000");
    let answer = json!({
        "accessToken": token, "expiresOn": end.to_string(), "subscription": "s",
        "tenant": world.mock.tenant_id(), "tokenType": "Bearer",
    });
    let folder = az(&format!("echo x >> ${{0%/*}}/runs\necho '{answer}'"));
    world.settings.environment = environment(folder.path());
    world
        .settings
        .environment
        .push(("TZ".into(), "EST5".into()));
    let identity = world.identity(Method::AzureCli);
    let runs = || {
        std::fs::read_to_string(folder.path().join("runs"))
            .unwrap()
            .len()
            / 2
    };
    identity.token().await.unwrap();
    world.clock.advance(54 * MINUTE);
    identity.token().await.unwrap();
    assert_eq!(runs(), 1, "the token holds");
    world.clock.advance(2 * MINUTE);
    identity.token().await.unwrap();
    assert_eq!(runs(), 2, "the token is about to end");
}

#[tokio::test]
async fn azure_clis_token_of_another_tenant_is_rejected() {
    let mut world = World::new(|mock| mock).await;
    let other = "00000000-0000-0000-0000-000000000001";
    let answer = json!({ "accessToken": "x", "expires_on": 4_000_000_000_u64, "tenant": other });
    let folder = az(&format!("echo '{answer}'"));
    world.settings.environment = environment(folder.path());
    let error = world.identity(Method::AzureCli).token().await.unwrap_err();
    let expected = IdentityError::OtherTenant {
        wanted: world.mock.tenant_id().to_owned(),
        got: other.to_owned(),
    };
    assert_eq!(error, expected);
}

#[tokio::test]
async fn azure_clis_output_is_bounded() {
    let mut world = World::new(|mock| mock).await;
    let folder = az("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done");
    world.settings.environment = environment(folder.path());
    let error = world.identity(Method::AzureCli).token().await.unwrap_err();
    assert!(error.to_string().contains("more than 1 MiB"), "{error}");
}

#[tokio::test]
async fn azure_clis_failures_are_told_apart() {
    let mut world = World::new(|mock| mock).await;
    let mut failure = async |script: Option<&str>| {
        let folder = script.map_or_else(|| TempDir::new().unwrap(), az);
        world.settings.environment = environment(folder.path());
        world.identity(Method::AzureCli).token().await.unwrap_err()
    };
    let error = failure(None).await;
    assert!(
        matches!(error, IdentityError::NotAvailable { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("not installed"), "{error}");

    let error = failure(Some(
        "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1",
    ));
    let error = error.await;
    assert!(
        matches!(error, IdentityError::NotAvailable { .. }),
        "{error:?}"
    );

    let error = failure(Some(
        "echo 'ERROR: AADSTS65001: The user or administrator has not consented. Trace ID: 1' >&2\n\
         echo \"Run az login\" >&2; exit 1",
    ));
    let error = error.await;
    let (text, to_do) = advice(&error);
    assert!(
        text.starts_with("AADSTS65001: The user or administrator"),
        "{text}"
    );
    assert!(
        to_do.contains("grant the application its permissions"),
        "{to_do}"
    );

    for said in [
        "HTTPSConnectionPool(host=x, port=443): Max retries exceeded with url: /",
        "AADSTS90033: A transient error has occurred. Please try again. Trace ID: 1",
    ] {
        let script = format!("echo 'ERROR: {said}' >&2; exit 1");
        let error = failure(Some(&script)).await;
        assert!(matches!(error, IdentityError::Busy { .. }), "{error:?}");
    }

    let error = failure(Some("echo 'not JSON'")).await;
    assert!(
        matches!(error, IdentityError::NotAnAnswer { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_azure_cli_has_started_ends_when_nobody_waits_for_it() {
    let mut world = World::new(|mock| mock).await;
    let folder = az("/bin/sleep 20 3> ${0%/*}/alive &\nwait");
    let alive = folder.path().join("alive");
    let made = std::process::Command::new("mkfifo").arg(&alive).status();
    assert!(made.unwrap().success());
    world.settings.environment = environment(folder.path());
    let identity = world.identity(Method::AzureCli);
    let waiting = tokio::spawn(async move { identity.token().await });
    // A pipe opens when the other side does, and ends with the last process that has it.
    let pipe = tokio::task::spawn_blocking(|| std::fs::File::open(alive));
    let mut pipe = pipe.await.unwrap().unwrap();
    waiting.abort();
    let ended = tokio::task::spawn_blocking(move || std::io::copy(&mut pipe, &mut std::io::sink()));
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.is_ok(), "it goes on");
}

// Device code.

#[derive(Default)]
struct Screen(Mutex<Vec<SignIn>>);

impl Prompt for Screen {
    fn show(&self, sign_in: &SignIn) {
        self.0.lock().unwrap().push(sign_in.clone());
    }
}

async fn screen(switches: Switches) -> (World, Arc<Screen>) {
    let mut world = World::new(|mock| mock.switches(switches)).await;
    let screen = Arc::new(Screen::default());
    world.settings.prompt = Some(Arc::clone(&screen) as Arc<dyn Prompt>);
    (world, screen)
}

#[tokio::test]
async fn a_user_signs_in_once_and_the_token_is_renewed_without_them() {
    let (mut world, screen) = screen(Switches::default()).await;
    for tenant in [world.settings.tenant_id.clone(), None] {
        screen.0.lock().unwrap().clear();
        world.settings.tenant_id = tenant;
        let identity = world.identity(Method::DeviceCode);
        let token = world.play(identity.token()).await.unwrap();
        assert_eq!(
            token.claims().scopes,
            ["Machine.RestrictExecution", "Machine.Read"]
        );
        let shown = screen.0.lock().unwrap().clone();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(shown[0].page, "https://microsoft.com/devicelogin");
        assert_eq!(shown[0].code.len(), 9);
        assert_eq!(shown[0].expires_in, 15 * MINUTE);

        world.clock.advance(60 * MINUTE);
        let renewed = world.play(identity.token()).await.unwrap();
        assert!(!renewed.is(&token));
        assert_eq!(screen.0.lock().unwrap().len(), 1, "nobody was asked again");
    }
}

#[tokio::test]
async fn where_the_authority_wants_to_see_the_user_again_they_are_asked_again() {
    let (world, screen) = screen(Switches {
        refresh_tokens: false,
        ..Switches::default()
    })
    .await;
    let identity = world.identity(Method::DeviceCode);
    world.play(identity.token()).await.unwrap();
    world.clock.advance(60 * MINUTE);
    world.play(identity.token()).await.unwrap();
    assert_eq!(screen.0.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_sign_in_that_is_declined_or_forgotten_ends_with_what_to_do() {
    for (user_sign_in, to_do) in [
        (UserSignIn::Decline, "consent was declined"),
        (UserSignIn::Nothing, "the sign-in code is no longer valid"),
    ] {
        let (world, screen) = screen(Switches {
            user_sign_in,
            device_code_lifetime: MINUTE,
            ..Switches::default()
        })
        .await;
        let identity = world.identity(Method::DeviceCode);
        let error = world.play(identity.token()).await.unwrap_err();
        assert!(advice(&error).1.starts_with(to_do), "{error}");
        assert_eq!(screen.0.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_sign_in_that_has_begun_outlasts_a_busy_authority() {
    let (world, screen) = screen(Switches::default()).await;
    let identity = world.identity(Method::DeviceCode);
    let busy = Fault::answer(503, r#"{"error":"temporarily_unavailable"}"#);
    world.mock.inject(busy.on(Api::Token).times(2));
    world.play(identity.token()).await.unwrap();
    assert_eq!(screen.0.lock().unwrap().len(), 1, "nobody was asked again");

    // Nor does a renewal that fails ask the user.
    world.clock.advance(60 * MINUTE);
    let busy = r#"{"error":"invalid_grant","error_codes":[90033]}"#;
    world.mock.inject(Fault::answer(400, busy).on(Api::Token));
    let error = world.play(identity.token()).await.unwrap_err();
    assert!(matches!(error, IdentityError::Busy { .. }), "{error:?}");
    world.clock.advance(Duration::from_secs(2));
    world.play(identity.token()).await.unwrap();
    assert_eq!(screen.0.lock().unwrap().len(), 1);
}

// The usual order.

#[tokio::test]
async fn by_default_the_first_way_that_is_there_is_taken_and_kept() {
    let mut world = World::with_secret().await;
    let folder = TempDir::new().unwrap();
    world.settings.federated_token_file = Some(folder.path().join("not there"));
    let identity = world.identity(Method::Default);
    identity.token().await.unwrap();
    world.clock.advance(60 * MINUTE);
    identity.token().await.unwrap();
    assert_eq!(world.fetches(), 2);
}

#[tokio::test]
async fn where_no_way_is_there_each_says_why() {
    let mut world = World::new(|mock| mock).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    world.settings.metadata_endpoint = Some(format!("http://{free}").parse().unwrap());
    let folder = TempDir::new().unwrap();
    world.settings.environment = environment(folder.path());
    let error = world.identity(Method::Default).token().await.unwrap_err();
    let IdentityError::NoneAvailable(tried) = &error else {
        panic!("{error:?}")
    };
    let methods: Vec<_> = tried.iter().map(|(method, _)| *method).collect();
    assert_eq!(methods, Method::ALL[..5]);
    let text = error.to_string();
    for why in [
        "client-secret: the client secret is not set",
        "client-certificate: the certificate is not set",
        "workload-identity: the federated token's file is not set",
        "managed-identity: this is no Azure machine with an identity",
        "azure-cli: az is not installed",
    ] {
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn an_authority_that_refuses_ends_the_search() {
    let mut world = machine().await;
    let authority = World::new(|mock| mock).await;
    // The authority refuses the secret; the machine would have had an identity.
    world.service = authority.service.clone();
    world.settings.client_secret = Some("wrong".to_owned());
    let error = world.identity(Method::Default).token().await.unwrap_err();
    assert!(advice(&error).0.starts_with("AADSTS7000215"), "{error}");
    assert_eq!(world.mock.arrivals(Api::Metadata), 0);
    world.settings.client_secret = None;
    world.service = Service::custom(
        world.mock.base_url(),
        world.mock.authority(),
        &world.mock.scope(),
    )
    .unwrap();
    world.identity(Method::Default).token().await.unwrap();
    assert_eq!(world.mock.arrivals(Api::Metadata), 1);
}
