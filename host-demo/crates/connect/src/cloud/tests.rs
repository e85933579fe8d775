//! Every cloud, and every way in which a token could go to a wrong one.

use super::*;

#[test]
fn every_row_of_the_table_is_the_documented_one() {
    let entra = "https://login.microsoftonline.com";
    let government = "https://login.microsoftonline.us";
    let old = "https://api.securitycenter.microsoft.com";
    let gcc = "https://api-gcc.securitycenter.microsoft.us";
    let gov = "https://api-gov.securitycenter.microsoft.us";
    let new = |region: &str| format!("https://{region}api.security.microsoft.com");
    let rows = [
        ("commercial", None, new(""), entra, old),
        ("commercial", Some("us"), new("us."), entra, old),
        ("commercial", Some("eu"), new("eu."), entra, old),
        ("commercial", Some("uk"), new("uk."), entra, old),
        ("commercial", Some("au"), new("au."), entra, old),
        ("commercial", Some("swa"), new("swa."), entra, old),
        ("commercial", Some("ina"), new("ina."), entra, old),
        ("commercial", Some("aea"), new("aea."), entra, old),
        ("legacy", None, old.to_owned(), entra, old),
        ("gcc", None, gcc.to_owned(), entra, gcc),
        ("gcc-high", None, gov.to_owned(), government, gov),
        ("dod", None, gov.to_owned(), government, gov),
    ];
    assert_eq!(rows.len(), TABLE.len(), "a row without a test");
    for (cloud, region, origin, authority, resource) in rows {
        let region = region.map(|name| name.parse().unwrap());
        let service = Service::of(cloud.parse().unwrap(), region).unwrap();
        assert_eq!(service.origin().to_string(), origin, "{cloud} {region:?}");
        assert_eq!(service.authority().to_string(), authority, "{cloud}");
        assert_eq!(service.scope(), format!("{resource}/.default"), "{cloud}");
        assert!(is_known(service.origin()) && belongs_to(resource, service.origin()));
        // Named whole, a row is itself.
        let named = Service::custom(&origin, authority, service.scope());
        assert_eq!(named.as_ref(), Ok(&service));
    }
}

#[test]
fn no_two_rows_share_an_origin_but_the_two_that_are_documented_to() {
    for (i, row) in TABLE.iter().enumerate() {
        for other in &TABLE[i + 1..] {
            let documented = (row.cloud, other.cloud) == (Cloud::GccHigh, Cloud::Dod);
            let shared = row.base_url == other.base_url;
            assert_eq!(
                shared, documented,
                "{} and {}",
                row.base_url, other.base_url
            );
        }
    }
}

#[test]
fn a_token_of_a_row_can_be_had_for_no_origin_outside_of_it() {
    for row in TABLE {
        let outside: Vec<&str> = TABLE
            .iter()
            .filter(|other| !other.audiences.contains(&row.audiences[0]))
            .map(|other| other.base_url)
            .chain([
                "https://api.security.microsoft.com.evil.test",
                "https://api.security.microsoft.com:8443",
                "https://localhost:8443",
                "https://graph.microsoft.com",
            ])
            .collect();
        let spellings = row.audiences.iter().flat_map(|audience| {
            let upper = audience.to_uppercase();
            [format!("{audience}/.default"), format!("{upper}//.default")]
        });
        for scope in spellings.filter(|scope| !scope.starts_with(WINDOWS_DEFENDER_ATP)) {
            for authority in ENTRA_HOSTS.iter().map(|host| format!("https://{host}")) {
                for base in outside.iter().filter(|base| {
                    let origin = base.parse().unwrap();
                    !belongs_to(scope.trim_end_matches("/.default"), &origin)
                }) {
                    let made = Service::custom(base, &authority, &scope);
                    assert!(
                        matches!(made, Err(ServiceError::ForeignOrigin { .. })),
                        "{base} {authority} {scope}: {made:?}"
                    );
                }
            }
        }
    }
}

const OLD: &str = "https://api.securitycenter.microsoft.com";

/// A service that takes tokens of `scope`, from an authority that is its own.
fn own(base: &str, scope: &str) -> Service {
    Service::custom(base, "https://login.contoso.com", scope).unwrap()
}

fn may(service: &Service, audiences: &[&str]) -> bool {
    let audiences: Vec<String> = audiences.iter().map(ToString::to_string).collect();
    service.may_receive(&audiences).is_ok()
}

#[test]
fn a_token_at_hand_leaves_for_its_own_cloud_or_loopback_only() {
    let cloud = |cloud, region| Service::of(cloud, region).unwrap();
    assert!(may(&Service::commercial(), &[OLD]));
    assert!(may(&cloud(Cloud::Commercial, Some(Region::Eu)), &[OLD]));
    // Said by the service itself, with 403 and the reason.
    assert!(may(
        &Service::commercial(),
        &["https://api.security.microsoft.com"]
    ));
    let stand_in = own("http://127.0.0.1:8080", "https://x/.default");
    assert!(may(&stand_in, &[OLD]));
    for (service, audience) in [
        (cloud(Cloud::Dod, None), OLD),
        (
            cloud(Cloud::Gcc, None),
            "https://API.securitycenter.microsoft.com/",
        ),
        (
            Service::commercial(),
            "https://api-gov.securitycenter.microsoft.us",
        ),
    ] {
        assert!(!may(&service, &[audience]), "{audience} to {service:?}");
    }
}

#[test]
fn to_a_service_of_ones_own_go_tokens_of_its_scope_and_none_that_is_for_somebody_else() {
    const ID: &str = "11111111-2222-3333-4444-555555555555";

    let gateway = |scope: &str| own("https://soar.contoso.com", &format!("{scope}/.default"));
    let by_name = gateway("api://contoso");
    let by_id = gateway(ID);
    let by_uri = gateway(&format!("api://{ID}"));
    let (plain, prefixed) = (ID.to_uppercase(), format!("api://{ID}/"));
    for service in [&by_id, &by_uri] {
        assert!(may(service, &[&plain]) && may(service, &[&prefixed]));
    }
    assert!(may(&by_name, &["api://contoso"]) && may(&by_name, &["api://Contoso/"]));
    // A token that says nothing of itself is judged by the service.
    assert!(may(&by_name, &[]));
    for others in [
        &[OLD][..],
        &["https://graph.microsoft.com"],
        &["api://fabrikam"],
        &["api://contoso.evil"],
        &[ID],
        &["api://contoso", OLD],
        &[OLD, "api://contoso"],
    ] {
        assert!(!may(&by_name, others), "{others:?}");
    }
}

#[test]
fn no_service_of_ones_own_takes_tokens_for_an_api_of_microsofts() {
    let graph = "00000003-0000-0000-c000-000000000000";
    for resource in [
        OLD,
        WINDOWS_DEFENDER_ATP,
        "api://fc780465-2017-40d4-a0c5-307022471b92",
        "https://api.security.microsoft.com",
        "8ee8fdad-f234-4243-8f3b-15c294843740",
        "https://graph.microsoft.com",
        "https://GRAPH.microsoft.com/",
        "https://graph.microsoft.com:443",
        "https://graph.microsoft.com.",
        "https://graph.microsoft.us",
        "https://dod-graph.microsoft.us",
        "https://microsoftgraph.chinacloudapi.cn",
        "https://graph.windows.net",
        graph,
        &format!("api://{graph}"),
        &format!("spn:{}", graph.to_uppercase()),
        "https://management.azure.com",
        "https://management.core.windows.net",
        "https://management.usgovcloudapi.net",
        "https://management.chinacloudapi.cn",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013",
        "https://vault.azure.net",
    ] {
        let scope = format!("{resource}/.default");
        for authority in ["https://login.contoso.com", ENTRA] {
            let made = Service::custom("https://soar.contoso.com", authority, &scope);
            let is_refused = matches!(made, Err(ServiceError::ForeignOrigin { .. }));
            assert!(is_refused, "{resource} of {authority}: {made:?}");
        }
    }
}

#[test]
fn of_entra_a_token_is_asked_only_for_an_api_that_can_be_where_it_goes() {
    let made = |base: &str, authority: &str, resource: &str| {
        Service::custom(base, authority, &format!("{resource}/.default"))
    };
    let own = "https://soar.contoso.com";
    for resource in [
        own,
        "https://SOAR.contoso.com./v1/",
        "https://contoso.com",
        "http://contoso.com/soar",
        "api://graph",
        "api://11111111-2222-3333-4444-555555555555",
        "11111111-2222-3333-4444-555555555555",
    ] {
        let made = made(own, ENTRA, resource);
        assert!(made.is_ok(), "{made:?}");
    }
    let others = [
        "https://storage.azure.com",
        "https://dev.azure.com",
        "499b84ac-1321-427f-aa17-267ca6975798",
        "https://api.loganalytics.io",
        "ca7f3f0b-7d91-482c-8e09-c5d840d0eac5",
        "https://contoso.sharepoint.com",
        "https://orgname.crm.dynamics.com",
        "https://api.powerbi.com",
        "00000009-0000-0000-c000-000000000000",
        "api://499b84ac-1321-427f-aa17-267ca6975798",
        "https://contoso.onmicrosoft.com/soar",
        "https://notmicrosoft.com",
        "https://com",
        "https://oso.com",
        "https://ar.contoso.com",
        "https://below.soar.contoso.com",
        "https://soar.contoso.com.evil.test",
        "https://",
        "",
        "soar.contoso.com",
    ];
    for resource in others {
        for authority in [
            ENTRA,
            "https://login.microsoftonline.com.",
            "https://westeurope.login.microsoft.com",
            "https://login.partner.microsoftonline.cn",
        ] {
            for base in [own, "https://localhost:8443", "https://10.4.0.1"] {
                let made = made(base, authority, resource);
                let is_refused = matches!(
                    made,
                    Err(ServiceError::NotThere { .. } | ServiceError::ForeignOrigin { .. })
                );
                assert!(is_refused, "{resource} of {authority}: {made:?}");
            }
        }
    }
    assert!(made("https://10.4.0.1", ENTRA, "https://0.1").is_err());
    // A stand-in has an authority of its own, and whoever else has one answers for it.
    for (base, authority) in [
        ("https://localhost:8443", "https://localhost:8443"),
        (own, "https://login.contoso.com"),
    ] {
        let made = made(base, authority, "https://storage.azure.com");
        assert!(made.is_ok(), "{made:?}");
    }
    let error = made(own, ENTRA, "https://api.powerbi.com").unwrap_err();
    assert_eq!(
        error.to_string(),
        "a token for https://api.powerbi.com/.default must not be sent to \
         https://soar.contoso.com: that need not be its API. Name the API by its application \
         id (api://... or the id alone, and /.default), or by a URL that begins with \
         https://soar.contoso.com or a domain above it"
    );
}

#[test]
fn an_authority_of_certificates_counts_at_the_origin_that_it_is_named_for() {
    let pem = |text: &str| text.as_bytes().to_vec();
    let two = own("https://soar.contoso.com", "api://contoso/.default")
        .with_ca(pem("gateway"))
        .with_authority_ca(pem("login"));
    let at = |service: &Service, origin: &Origin| {
        let texts: Vec<Vec<u8>> = service.cas(origin).map(<[u8]>::to_vec).collect();
        texts
    };
    assert_eq!(at(&two, two.origin()), [b"gateway"]);
    assert_eq!(at(&two, two.authority()), [b"login"]);
    let same_host: Origin = "https://soar.contoso.com:8443".parse().unwrap();
    assert_eq!(at(&two, &same_host), [b""; 0]);
    let one = "https://localhost:1";
    let one = Service::custom(one, one, "https://x/.default").unwrap();
    let one = one.with_ca(pem("both"));
    assert_eq!(at(&one, one.authority()), [b"both"]);
}

#[test]
fn only_the_commercial_cloud_has_regions_and_each_has_its_own_authority() {
    for cloud in &Cloud::ALL[1..] {
        assert_eq!(
            Service::of(*cloud, Some(Region::Eu)),
            Err(ServiceError::NoRegions(*cloud))
        );
    }
    let commercial = Service::commercial();
    let expect = |named| commercial.expect_authority(Cloud::Commercial, named);
    assert_eq!(expect("https://login.microsoftonline.com/"), Ok(()));
    let error = expect("https://login.microsoftonline.us").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the cloud commercial takes tokens of https://login.microsoftonline.com, not of \
         https://login.microsoftonline.us; that is the authority of gcc-high, dod"
    );
    assert!(expect("https://login.evil.test").is_err());
}

#[test]
fn a_service_names_which_of_its_parts_is_wrong() {
    let error = |base: &str, authority: &str, scope: &str| {
        Service::custom(base, authority, scope).unwrap_err()
    };
    let (base, authority, scope) = (
        "https://localhost:1",
        "https://localhost:2",
        "https://x/.default",
    );
    assert!(matches!(
        error("localhost:1", authority, scope),
        ServiceError::BaseUrl { .. }
    ));
    assert!(matches!(
        error(base, "http://login.test", scope),
        ServiceError::Authority { .. }
    ));
    assert!(matches!(
        error(base, authority, "https://x"),
        ServiceError::Scope(_)
    ));
}
