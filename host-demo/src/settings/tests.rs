use std::collections::HashMap;
use std::path::Path;

use super::file::{ConfigError, Problem};
use super::*;
use defender_boundary::policy::Route;
use defender_connect::cloud::Service;
use defender_core::operation::Operation;
use defender_quota::Quota;

fn parse(text: &str) -> File {
    File::parse(text, Path::new("/etc/x")).unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
}

/// What a file, the environment and flags come to.
fn settle(file: &str, environment: &[(&str, &str)], flags: &[(Key, &str)]) -> Settings {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    Settings::resolve(
        parse(file),
        |name| environment.get(name).map(|text| (*text).to_owned()),
        flags.iter().map(|(key, text)| (*key, (*text).to_owned())),
    )
}

#[test]
fn every_key_has_its_row_and_the_example_has_every_key() {
    for key in Key::all() {
        let doc = KEYS.iter().find(|doc| doc.key == key).unwrap();
        if doc.form != Form::Secret {
            let stands = EXAMPLE.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{} = ", doc.name)) || line == format!("[[{}]]", doc.name)
            });
            assert!(
                stands || doc.name == "file" && EXAMPLE.contains("# file = "),
                "{key}"
            );
        }
        for name in doc.environment.iter().chain(&doc.flag) {
            assert!(EXAMPLE.contains(name), "{name} is not in the example");
        }
    }
}

#[test]
fn the_example_is_a_configuration_and_so_is_each_line_that_is_commented_out() {
    let settings = settle(EXAMPLE, &[], &[]);
    let service = settings.service().unwrap();
    assert_eq!(
        service.origin().to_string(),
        "https://eu.api.security.microsoft.com"
    );
    assert_eq!(settings.quotas(), Quota::DOCUMENTED);
    let default = settle("", &[], &[]).policy(service.origin().clone());
    assert_eq!(settings.policy(service.origin().clone()), default);
    assert_eq!(
        settings.text(Key::ClientSecretFile),
        Some("/etc/x/client-secret")
    );

    for (on, off) in [
        (
            vec![
                "# base-url",
                "# authority",
                "# scope",
                "# ca-file",
                "# authority-ca-file",
            ],
            vec!["cloud", "region"],
        ),
        (vec!["# auth", "# file", "# sha256"], vec![]),
        (vec!["# token-file"], vec!["client-secret-file"]),
        (vec!["# certificate-file"], vec!["client-secret-file"]),
        (vec!["# federated-token-file"], vec!["client-secret-file"]),
        (vec!["# proxy", "# proxy-credentials-file"], vec![]),
        (vec!["# allow-addresses"], vec![]),
        (vec!["# key", "# ticket"], vec![]),
    ] {
        let line = |line: &str| {
            let starts = |name: &&str| line.starts_with(&format!("{name} = "));
            if on.iter().any(starts) {
                line[2..].to_owned()
            } else if off.iter().any(starts) {
                String::new()
            } else {
                line.to_owned()
            }
        };
        let text: Vec<String> = EXAMPLE.lines().map(line).collect();
        let parsed = parse(&text.join("\n"));
        let problems = settle(&text.join("\n"), &[], &[]).problems();
        assert_eq!(problems, [], "{}", text.join("\n"));
        for name in &on {
            let name = name.trim_start_matches("# ");
            let set = parsed.values.keys().any(|key| key.doc().name == name);
            assert!(set, "{name} is not set by\n{}", text.join("\n"));
        }
    }
}

#[test]
fn a_mistake_is_named_with_its_line_and_what_was_meant() {
    for (text, line, message) in [
        (
            "[service]\nclowd = \"gcc\"",
            2,
            "unknown key service.clowd; did you mean service.cloud?",
        ),
        (
            "[service]\nbase_url = \"x\"",
            2,
            "unknown key service.base_url; did you mean service.base-url?",
        ),
        (
            "[servise]\n",
            1,
            "unknown key servise; did you mean [service]?",
        ),
        (
            "\n\ncloud = \"gcc\"",
            3,
            "unknown key cloud; did you mean service.cloud?",
        ),
        (
            "timeout = \"1s\"",
            1,
            "unknown key timeout; did you mean call.timeout?",
        ),
        (
            "[call]\nxyzzy = 1",
            2,
            "unknown key call.xyzzy; there are: timeout",
        ),
        (
            "xyzzy = 1",
            1,
            "unknown key xyzzy; there are: [service], [identity], [network], [call], [plugin], \
             [policy], [audit], [ledger], [[quota]]",
        ),
        (
            "[service]\ncloud = \"gov\"",
            2,
            "service.cloud: there is no \"gov\"; there are: commercial, legacy, gcc, gcc-high, dod",
        ),
        (
            "[service]\ncloud = \"gcchigh\"",
            2,
            "service.cloud: there is no \"gcchigh\"; did you mean \"gcc-high\"?",
        ),
        (
            "[service]\nregion = 7",
            2,
            "service.region is a number and should be a text in quotation marks",
        ),
        (
            "service = 7",
            1,
            "service is a number and should be a section, in [brackets]",
        ),
        (
            "[call]\ntimeout = 30",
            2,
            "call.timeout is a number and should be a text in quotation marks",
        ),
        (
            "[call]\ntimeout = \"soon\"",
            2,
            "call.timeout: expected a length of time such as 90s, 10m or 1h30m",
        ),
        (
            "[call]\ntimeout = \"0s\"",
            2,
            "call.timeout must be longer than nothing",
        ),
        (
            "[service]\nca-file = \"\"",
            2,
            "service.ca-file is empty; leave it out",
        ),
        (
            "[service]\nca-file = \"~/ca.pem\"",
            2,
            "service.ca-file: ~ is not replaced; write the whole path, \
             or one from this file's folder",
        ),
        (
            "[policy]\nallow = \"all\"",
            2,
            "policy.allow is a text and should be a list of rules, in [brackets]",
        ),
        (
            "[policy]\nallow = [\n  \"POST /api/machines/{id}/unrestrictCodeExecution\",\n]",
            3,
            "policy.allow: there is no \"POST /api/machines/{id}/unrestrictCodeExecution\"; \
             did you mean \"POST /api/machines/{machine-id}/unrestrictCodeExecution\"?",
        ),
        (
            "quota = []",
            1,
            "quota is a list and should be one or more sections [[quota]]",
        ),
        (
            "[quota]\ncalls = 1",
            1,
            "quota is a section and should be one or more sections [[quota]]",
        ),
        ("[[quota]]\ncalls = 1", 1, "quota: needs both calls and per"),
        (
            "[[quota]]\ncalls = 0\nper = \"1m\"",
            2,
            "quota.calls: is a number from 1 on",
        ),
        (
            "[[quota]]\ncalls = 1\nper = 60",
            3,
            "quota.per is a number and should be a text such as \"60s\"",
        ),
        (
            "[[quota]]\ncals = 1\nper = \"1m\"",
            2,
            "unknown key quota.cals; did you mean quota.calls?",
        ),
        (
            "[service]\ncloud = \"gcc\"\nbase-url = \"https://x\"\nscope = \"x/.default\"",
            3,
            "service.base-url and service.cloud exclude each other",
        ),
        (
            "[service]\nbase-url = \"https://x\"",
            2,
            "service.base-url needs service.scope: a service of one's own is named by \
             base-url, authority and scope",
        ),
        (
            "[service]\nauthority = \"https://x\"",
            2,
            "service.authority needs service.base-url: a service of one's own is named by \
             base-url, authority and scope",
        ),
        (
            "[identity]\ntoken-file = \"a\"\nclient-secret-file = \"b\"",
            3,
            "identity.client-secret-file and identity.token-file exclude each other",
        ),
        (
            "[identity]\nauth = \"client-secrets\"",
            2,
            "identity.auth: there is no \"client-secrets\"; did you mean \"client-secret\"?",
        ),
        (
            "[identity]\nauth = \"kerberos\"",
            2,
            "identity.auth: there is no \"kerberos\"; there are: client-secret, \
             client-certificate, workload-identity, managed-identity, azure-cli, device-code, \
             default, token-file",
        ),
        (
            "[identity]\ntenant-id = \"../common\"",
            2,
            "identity.tenant-id is not a tenant ID (GUID) or domain: \"../common\"",
        ),
        (
            "[service]\nbase-url = \"http://x\"\nscope = \"x/.default\"",
            2,
            "service.base-url: only https:// is allowed (and http:// for loopback): a token must \
             not cross a network in the clear",
        ),
        (
            "[service]\nbase-url = \"https://x\"\nscope = \"x\"",
            3,
            "service.scope must end in /.default: it is the service's resource, followed by that",
        ),
        (
            "[network]\nproxy = \"http://user:hunter2@proxy:3128\"",
            2,
            "network.proxy: the proxy's URL has credentials in it, which is where they get seen; \
             put them, as user:password, into a file that only you can read, and name that: \
             proxy-credentials-file, --proxy-credentials-file",
        ),
        (
            "[network]\nproxy = \"proxy:3128\"",
            2,
            "network.proxy: the proxy's URL must be http:// or https:// with a host and a port, \
             and nothing else",
        ),
        (
            "[network]\nallow-addresses = [\n  \"10.0.0.0/8\",\n  \"intranet\",\n]",
            4,
            "network.allow-addresses: \"intranet\" is not a network or an address, such as \
             10.1.0.0/16 or 10.1.2.3",
        ),
        (
            "[network]\nallow-addresses = \"10.0.0.0/8\"",
            2,
            "network.allow-addresses is a text and should be a list of networks, in [brackets]",
        ),
        (
            "[plugin]\nsha256 = \"abc\"",
            2,
            "plugin.sha256: a SHA-256 has 64 hexadecimal digits, as `sha256sum` prints them",
        ),
        (
            "[[quota]]\nper = \"1m\"\ncalls = 101",
            3,
            "quota: the service takes 100 calls at most in 1m, and this says 101; the documented \
             quotas hold in any case, and can only be lowered",
        ),
        (
            "[call]\ntimeout = \"1s\"\ntimeout = \"2s\"",
            3,
            "duplicate key",
        ),
    ] {
        let errors = File::parse(text, Path::new("/")).unwrap_err();
        assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
        assert_eq!(
            (errors[0].line, errors[0].problem.to_string().as_str()),
            (line, message),
            "{text}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once_from_the_first_line_to_the_last() {
    let text = "[service]\nclowd = \"gcc\"\n[call]\ntimeout = 3\n[a]\n";
    let errors = File::parse(text, Path::new("/")).unwrap_err();
    let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [2, 4, 5]);
}

#[test]
fn a_rule_is_suggested_only_where_it_does_what_was_asked_for() {
    let problem = |rule: &str| {
        let text = format!("[policy]\nallow = [{rule:?}]");
        File::parse(&text, Path::new("/")).unwrap_err()[0].to_string()
    };
    for rule in [
        "POST /api/machines/{id}/isolate",
        "POST /api/machines/{machine-id}/unrestrict",
        "GET /api/machines/{machine-id}/unrestrictCodeExecution",
        "POST /api/machineactions/{action-id}",
    ] {
        let told = problem(rule);
        assert!(!told.contains("did you mean"), "{told}");
        assert!(told.contains("there are: POST /api/machines/"), "{told}");
    }
    for (rule, meant) in [
        (
            "post /api/machines/{id}/UnrestrictCodeExecution",
            "did you mean \"POST /api/machines/{machine-id}/unrestrictCodeExecution\"?",
        ),
        (
            "GET /api/machineAction/{id}",
            "did you mean \"GET /api/machineactions/{action-id}\"?",
        ),
    ] {
        let told = problem(rule);
        assert!(told.contains(meant), "{told}");
    }
}

#[test]
fn a_flag_that_another_one_leaves_without_a_meaning_is_an_error() {
    let problems = |flags: &[(Key, &str)]| {
        let problems = settle("", &[], flags).problems();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let told = problems(&[(Key::Cloud, "gcc"), (Key::Scope, "x/.default")]);
    assert_eq!(
        told,
        [
            "--scope names a part of a service, or of a credential, that another flag replaces as \
             a whole; leave out one of the two"
        ]
    );
    assert_eq!(problems(&[(Key::Cloud, "gcc")]), [""; 0]);
}

#[test]
fn a_secret_in_the_file_is_an_error_that_says_where_it_belongs_and_does_not_show_it() {
    for (text, belongs) in [
        (
            "[identity]\nclient-secret = \"hunter2\"",
            "client-secret-file",
        ),
        (
            "[identity]\nclient_secret = \"hunter2\"",
            "client-secret-file",
        ),
        (
            "[identity]\nAZURE_CLIENT_SECRET = \"hunter2\"",
            "client-secret-file",
        ),
        ("[identity]\ntoken = \"hunter2\"", "token-file"),
        ("[identity]\naccess-token = \"hunter2\"", "token-file"),
        (
            "[identity]\ncertificate-password = \"hunter2\"",
            "certificate-file",
        ),
        (
            "[service]\nclient-secret = \"hunter2\"",
            "client-secret-file",
        ),
        ("\nclient-secret = \"hunter2\"", "client-secret-file"),
    ] {
        let errors = File::parse(text, Path::new("/")).unwrap_err();
        let [ConfigError { line: 2, problem }] = &errors[..] else {
            panic!("{text}: {errors:?}");
        };
        assert!(
            matches!(problem, Problem::Secret { .. }),
            "{text}: {problem:?}"
        );
        assert!(problem.to_string().contains(belongs), "{problem}");
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }
    // What is no TOML is not quoted either.
    for text in [
        "[identity]\nclient-secret = hunter2",
        "[identity]\nclient-secret = \"hunter2",
    ] {
        let errors = File::parse(text, Path::new("/")).unwrap_err();
        assert!(
            !format!("{errors:?}{}", errors[0]).contains("hunter2"),
            "{errors:?}"
        );
    }
}

#[test]
fn the_file_comes_first_then_the_environment_then_the_flags() {
    let file = "[identity]\ntenant-id = \"from-file\"\n";
    let tenant = |settings: &Settings| settings.get(Key::TenantId).cloned().unwrap();
    let value = |text: &str, source| Value {
        text: text.to_owned(),
        source,
    };
    let environment = [("AZURE_TENANT_ID", "from-env")];
    let flags = [(Key::TenantId, "from-flag")];
    assert_eq!(
        tenant(&settle(file, &[], &[])),
        value("from-file", Source::File(2))
    );
    assert_eq!(
        tenant(&settle(file, &environment, &[])),
        value("from-env", Source::Environment("AZURE_TENANT_ID"))
    );
    assert_eq!(
        tenant(&settle(file, &environment, &flags)),
        value("from-flag", Source::Flag("--tenant-id"))
    );
    let empty = [("AZURE_TENANT_ID", "")];
    assert_eq!(
        tenant(&settle(file, &empty, &[])),
        value("from-file", Source::File(2))
    );
    let timeout = settle("", &[], &[]).get(Key::Timeout).cloned();
    assert_eq!(timeout, Some(value("30s", Source::Default)));
}

#[test]
fn whoever_names_a_service_names_the_whole_of_it() {
    const OWN: &str = "[service]\nbase-url = \"https://one.test\"\n\
                       authority = \"https://login.one.test\"\n\
                       scope = \"https://one.test/.default\"\nca-file = \"one.pem\"";
    const GCC: &str = "[service]\ncloud = \"gcc\"\nca-file = \"gcc.pem\"";
    const EUROPE: &str = "[service]\nregion = \"eu\"\nca-file = \"proxy.pem\"";

    let government = [("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us")];
    let two = [
        (Key::BaseUrl, "https://two.test"),
        (Key::Scope, "https://two.test/.default"),
    ];
    let parts = |settings: Settings| {
        let service = settings.service();
        let ca = settings.text(Key::CaFile).map(str::to_owned);
        service.map(|s| {
            (
                s.origin().host().to_owned(),
                s.authority().host().to_owned(),
                ca,
            )
        })
    };
    let expect = |settings, host: &str, authority: &str, ca: Option<&str>| {
        let expected = (host.to_owned(), authority.to_owned(), ca.map(str::to_owned));
        assert_eq!(parts(settings), Ok(expected));
    };
    let entra = "login.microsoftonline.com";
    expect(
        settle("", &[], &[]),
        "api.security.microsoft.com",
        entra,
        None,
    );
    expect(
        settle(OWN, &[], &[]),
        "one.test",
        "login.one.test",
        Some("/etc/x/one.pem"),
    );
    // The environment's authority is not that of a service that was named with one.
    expect(
        settle(OWN, &government, &[]),
        "one.test",
        "login.one.test",
        Some("/etc/x/one.pem"),
    );
    expect(
        settle(OWN, &government, &two),
        "two.test",
        "login.microsoftonline.us",
        None,
    );
    assert!(matches!(
        settle(OWN, &[], &two).service(),
        Err(SettingsError::Incomplete {
            key: Key::Authority
        })
    ));
    let high = [(Key::Cloud, "gcc-high")];
    let gov = "api-gov.securitycenter.microsoft.us";
    expect(
        settle(OWN, &government, &high),
        gov,
        "login.microsoftonline.us",
        None,
    );
    expect(
        settle(GCC, &[], &high),
        gov,
        "login.microsoftonline.us",
        None,
    );
    expect(
        settle(EUROPE, &[], &high),
        gov,
        "login.microsoftonline.us",
        None,
    );
    let uk = [(Key::Region, "uk")];
    let host = "uk.api.security.microsoft.com";
    expect(
        settle(EUROPE, &[], &uk),
        host,
        entra,
        Some("/etc/x/proxy.pem"),
    );
    assert!(
        settle(GCC, &[], &uk).service().is_err(),
        "gcc has no regions"
    );
    // A variable that stands there for other tools does not lead tokens astray.
    let error = settle("", &government, &[])
        .service()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("AZURE_AUTHORITY_HOST") && error.contains("gcc-high, dod"),
        "{error}"
    );
}

#[test]
fn who_is_trusted_at_one_authority_is_not_at_the_one_that_takes_its_place() {
    const OWN: &str = "[service]\nbase-url = \"https://one.test\"\n\
                       authority = \"https://login.one.test\"\n\
                       scope = \"https://one.test/.default\"\nauthority-ca-file = \"login.pem\"";
    let trusted = |flags: &[(Key, &str)]| {
        let settings = settle(OWN, &[], flags);
        settings.text(Key::AuthorityCaFile).map(str::to_owned)
    };
    let same = Some("/etc/x/login.pem".to_owned());
    assert_eq!(trusted(&[]), same);
    assert_eq!(trusted(&[(Key::TenantId, "t")]), same);
    let two = (Key::Authority, "https://login.two.test");
    assert_eq!(trusted(&[two]), None);
    assert_eq!(
        trusted(&[two, (Key::AuthorityCaFile, "two.pem")]),
        Some("two.pem".to_owned())
    );
    let scope = (Key::Scope, "https://two.test/.default");
    assert_eq!(trusted(&[(Key::BaseUrl, "https://two.test"), scope]), None);
    assert_eq!(trusted(&[(Key::Cloud, "gcc")]), None);
}

#[test]
fn whoever_names_a_credential_replaces_the_others() {
    const FILE: &str = "[identity]\nauth = \"token-file\"\ntoken-file = \"token\"";
    let secret = [("AZURE_CLIENT_SECRET", "hunter2")];
    let has = |settings: &Settings| {
        [
            Key::Auth,
            Key::ClientSecret,
            Key::ClientSecretFile,
            Key::TokenFile,
        ]
        .map(|key| settings.get(key).is_some())
    };
    assert_eq!(has(&settle(FILE, &[], &[])), [true, false, false, true]);
    let settings = settle(FILE, &secret, &[]);
    assert_eq!(
        has(&settings),
        [true, true, false, true],
        "the method that is named stays"
    );
    assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    let flag = [(Key::ClientSecretFile, "s")];
    assert_eq!(
        has(&settle(FILE, &secret, &flag)),
        [false, false, true, false]
    );
}

#[test]
fn a_sign_in_method_that_the_file_names_goes_before_variables() {
    let secret = ("AZURE_CLIENT_SECRET", "hunter2");
    let settings = |auth: &str, file: &str, flags: &[(Key, &str)]| {
        settle(&format!("[identity]\n{auth}{file}"), &[secret], flags)
    };
    let used = |settings: &Settings| {
        let replaced: Vec<Key> = settings.replaced().iter().map(|r| r.key).collect();
        let is_set = |key: &Key| settings.get(*key).is_some();
        let keys = [
            Key::ClientSecret,
            Key::ClientSecretFile,
            Key::CertificateFile,
        ];
        let keys: Vec<Key> = keys.into_iter().filter(is_set).collect();
        (settings.text(Key::Auth).map(str::to_owned), keys, replaced)
    };
    let auth = |name: &str| Some(name.to_owned());
    let certificate = "certificate-file = \"c\"\n";
    let file = "client-secret-file = \"s\"\n";
    // Nobody names a method: the variable is the later source.
    assert_eq!(
        used(&settings("", certificate, &[])),
        (None, vec![Key::ClientSecret], vec![Key::CertificateFile])
    );
    for named in ["client-certificate", "azure-cli", "default"] {
        let line = format!("auth = \"{named}\"\n");
        assert_eq!(
            used(&settings(&line, certificate, &[])),
            (
                auth(named),
                vec![Key::ClientSecret, Key::CertificateFile],
                vec![]
            )
        );
    }
    // So does the credential that the file names for its method.
    let line = "auth = \"client-secret\"\n";
    assert_eq!(
        used(&settings(line, file, &[])),
        (auth("client-secret"), vec![Key::ClientSecretFile], vec![])
    );
    assert_eq!(
        used(&settings(line, "", &[])),
        (auth("client-secret"), vec![Key::ClientSecret], vec![])
    );
    // A method that only a flag names takes the later source.
    assert_eq!(
        used(&settings("", file, &[(Key::Auth, "client-secret")])),
        (
            auth("client-secret"),
            vec![Key::ClientSecret],
            vec![Key::ClientSecretFile]
        )
    );
    for (named, key, variable) in [
        (
            "client-certificate",
            Key::CertificateFile,
            "AZURE_CLIENT_CERTIFICATE_PATH",
        ),
        (
            "workload-identity",
            Key::FederatedTokenFile,
            "AZURE_FEDERATED_TOKEN_FILE",
        ),
    ] {
        let name = key.to_string();
        let name = name.rsplit('.').next().unwrap();
        let text = format!("[identity]\nauth = \"{named}\"\n{name} = \"/own\"\n");
        let settings = settle(&text, &[(variable, "/of-another-tool")], &[]);
        assert_eq!(settings.text(key), Some("/own"), "{named}");
    }
    // A flag goes before all.
    let flag = [(Key::ClientSecretFile, "s")];
    let line = "auth = \"client-certificate\"\n";
    assert_eq!(
        used(&settings(line, certificate, &flag)),
        (None, vec![Key::ClientSecretFile], vec![])
    );
    let flag = [(Key::Auth, "managed-identity")];
    assert_eq!(
        settings(line, "", &flag).text(Key::Auth),
        Some("managed-identity")
    );
}

#[test]
fn stray_characters_around_a_value_are_removed() {
    const ID: &str = "4f0c1a52-93d7-4b8e-a6f1-0d2e5b7c8a91";
    for around in [
        "ID ",
        "ID\n",
        "ID\r\n",
        "\u{FEFF}ID",
        "ID\u{200B}",
        "\"ID\"",
        "'ID'",
        "{ID}",
        "<ID>",
        "\"{ID}\"",
        " 'ID'\r\n",
    ] {
        let value = around.replace("ID", ID);
        let environment = [
            ("AZURE_TENANT_ID", value.as_str()),
            ("AZURE_CLIENT_ID", &value),
        ];
        let of_environment = settle("", &environment, &[]);
        let of_flags = settle("", &[], &[(Key::TenantId, &value), (Key::ClientId, &value)]);
        let quoted = serde_json::Value::String(value.clone());
        let of_file = format!("[identity]\ntenant-id = {quoted}\nclient-id = {quoted}\n");
        for settings in [of_environment, of_flags, settle(&of_file, &[], &[])] {
            assert_eq!(settings.problems(), []);
            for key in [Key::TenantId, Key::ClientId] {
                assert_eq!(settings.text(key), Some(ID), "{value:?}");
            }
        }
    }
    let path = settle(
        "",
        &[("AZURE_FEDERATED_TOKEN_FILE", "'/var/run/token'\r")],
        &[],
    );
    assert_eq!(path.text(Key::FederatedTokenFile), Some("/var/run/token"));
    let nothing = settle("", &[("AZURE_CLIENT_SECRET", " \n")], &[]);
    assert_eq!(nothing.get(Key::ClientSecret), None);
}

#[test]
fn a_rejected_value_is_shown() {
    let problem = |environment: &[(&str, &str)]| {
        let problems = settle("", environment, &[]).problems();
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (name, value, expected) in [
        (
            "AZURE_TENANT_ID",
            "contoso com",
            "identity.tenant-id is not a tenant ID (GUID) or domain: \"contoso com\" \
             (environment AZURE_TENANT_ID)",
        ),
        (
            "AZURE_CLIENT_ID",
            "my app",
            "identity.client-id is not an application (client) ID: \"my app\" \
             (environment AZURE_CLIENT_ID)",
        ),
        (
            "AZURE_TENANT_ID",
            "Xy78Q~dummy.dummy_dummy",
            "identity.tenant-id is not a tenant ID (GUID) or domain: (a value of 23 characters, not \
             shown because it could be a secret) (environment AZURE_TENANT_ID)",
        ),
    ] {
        assert_eq!(problem(&[(name, value)]), expected);
    }
}

/// As Azure's SDKs take it.
#[test]
fn an_authority_without_a_scheme_is_reached_over_https() {
    for host in [
        "login.microsoftonline.com",
        "login.microsoftonline.com/",
        "https://login.microsoftonline.com/",
        "\"login.microsoftonline.com\"\n",
    ] {
        let settings = settle("", &[("AZURE_AUTHORITY_HOST", host)], &[]);
        assert_eq!(settings.problems(), [], "{host}");
    }
    let settings = settle("", &[("AZURE_AUTHORITY_HOST", "a/b")], &[]);
    let problem = settings.problems()[0].to_string();
    assert!(
        problem.contains("such as https://login.microsoftonline.com: \"https://a/b\""),
        "{problem}"
    );
}

#[test]
fn what_can_be_judged_by_itself_is_and_with_where_it_came_from() {
    let problems = |file: &str, environment: &[(&str, &str)], flags: &[(Key, &str)]| {
        let problems = settle(file, environment, flags).problems();
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(problems("", &[], &[]), "");
    let found = problems(
        "[identity]\nauth = \"token-file\"\n[network]\nproxy-credentials-file = \"p\"",
        &[("AZURE_TENANT_ID", "a/b")],
        &[(Key::AllowAddresses, "10.0.0.1, x"), (Key::Ticket, " ")],
    );
    assert_eq!(
        found,
        "identity.tenant-id is not a tenant ID (GUID) or domain: \"a/b\" \
         (environment AZURE_TENANT_ID)\n\
         network.allow-addresses: \"x\" is not a network or an address, such as 10.1.0.0/16 or \
         10.1.2.3 (flag --allow-address)\n\
         audit.ticket is empty; leave it out (flag --ticket)\n\
         identity.auth: no token file is named: token-file, --token-file (line 2 of the \
         configuration)\n\
         network.proxy-credentials-file: there is no proxy that they are for: proxy, --proxy \
         (line 4 of the configuration)"
    );
    assert_eq!(
        problems("[service]\ncloud = \"gcc\"\nregion = \"eu\"", &[], &[]),
        "service.region: the cloud gcc has no regions; only commercial has (line 3 of the \
         configuration)"
    );
    let found = problems("", &[], &[(Key::Proxy, "http://user:hunter2@proxy")]);
    assert!(
        found.contains("--proxy-credentials-file") && !found.contains("hunter2"),
        "{found}"
    );
}

#[test]
fn the_documented_quotas_hold_whatever_is_configured() {
    let kept = |text: &str| {
        let settings = settle(text, &[], &[]);
        let shown = settings.text(Key::Quota).map(str::to_owned);
        assert_eq!(shown, Some(file::show(settings.quotas())));
        let quotas = settings.quotas().iter();
        quotas
            .map(|quota| (quota.calls, quota.per.as_secs()))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(""), [(100, 60), (1500, 3600)]);
    for (configured, holds) in [
        // One for the minute leaves the hour's in force, and the other way round.
        (&[(10, 60)][..], &[(10, 60), (1500, 3600)][..]),
        (&[(1000, 3600)], &[(1000, 3600), (100, 60)]),
        (&[(5, 1)], &[(5, 1), (100, 60), (1500, 3600)]),
        (&[(50, 3600)], &[(50, 3600)]),
        // As many as the documented ones let through in that time, and no more.
        (&[(100, 30)], &[(100, 30), (100, 60), (1500, 3600)]),
        (&[(200, 120)], &[(200, 120), (100, 60), (1500, 3600)]),
        (&[(3000, 7200)], &[(3000, 7200), (100, 60), (1500, 3600)]),
        (&[(101, 30)], &[]),
        (&[(201, 120)], &[]),
        (&[(6000, 3600)], &[]),
        (&[(3001, 7200)], &[]),
        (&[(10, 60), (1501, 3600)], &[]),
    ] {
        let quota = |(calls, per)| format!("[[quota]]\ncalls = {calls}\nper = \"{per}s\"\n");
        let text: String = configured.iter().copied().map(quota).collect();
        if holds.is_empty() {
            let errors = File::parse(&text, Path::new("/")).unwrap_err();
            assert!(
                matches!(errors[0].problem, Problem::Quota { .. }),
                "{errors:?}"
            );
        } else {
            assert_eq!(kept(&text), holds, "{text}");
        }
    }
}

#[test]
fn one_proxys_credentials_do_not_go_to_another() {
    const FILE: &str = "[network]\nproxy = \"http://one:1\"\nproxy-credentials-file = \"p\"";
    let credentials = |flags: &[(Key, &str)]| {
        let settings = settle(FILE, &[], flags);
        settings.text(Key::ProxyCredentialsFile).map(str::to_owned)
    };
    assert_eq!(credentials(&[]).as_deref(), Some("/etc/x/p"));
    let other = (Key::Proxy, "http://two:2");
    assert_eq!(credentials(&[other]), None);
    let own = (Key::ProxyCredentialsFile, "q");
    assert_eq!(credentials(&[other, own]).as_deref(), Some("q"));
    assert_eq!(credentials(&[own]).as_deref(), Some("q"));
}

#[test]
fn what_is_permitted_and_recorded_can_be_configured() {
    let settings = settle(
        "[network]\nallow-addresses = [\"10.1.0.0/16\", \"fd12::1\"]\n\
         [audit]\nfile = \"audit.jsonl\"\nkey = \"/k/audit.key\"\nticket = \"INC-42\"",
        &[],
        &[],
    );
    let network = settings.network().unwrap();
    let permitted = network.permitted().iter().map(ToString::to_string);
    assert_eq!(
        permitted.collect::<Vec<_>>(),
        ["10.1.0.0/16", "fd12::1/128"]
    );
    let texts = [Key::AuditFile, Key::AuditKey, Key::Ticket].map(|key| settings.text(key));
    assert_eq!(
        texts,
        [
            Some("/etc/x/audit.jsonl"),
            Some("/k/audit.key"),
            Some("INC-42")
        ]
    );
}

#[test]
fn a_policy_allows_what_it_lists_and_by_default_to_release_and_to_read() {
    let origin = || Service::commercial().origin().clone();
    let routes = |text: &str| settle(text, &[], &[]).policy(origin()).routes().to_vec();
    let release = Route::of(Operation::UnrestrictCodeExecution);
    let read = Route::of(Operation::GetMachineAction);
    assert_eq!(
        routes(""),
        defender_boundary::policy::Policy::RELEASE_AND_READ
    );
    assert_eq!(routes("[policy]\nallow = []"), []);
    assert_eq!(routes(&format!("[policy]\nallow = [\"{read}\"]")), [read]);

    // A denial has the rule that would allow it, and pasted it does.
    let policy = settle("[policy]\nallow = []", &[], &[]).policy(origin());
    let denial = policy
        .allows(Operation::UnrestrictCodeExecution)
        .unwrap_err();
    let pasted = format!(
        "[policy]\nallow = [{:?}]",
        denial.rule().unwrap().to_string()
    );
    assert_eq!(routes(&pasted), [release]);
}
