//! The configuration file, as the command finds and uses it.

use defender_mock::Api;
use host_demo::plugin::{BUNDLED, Digest};
use serde_json::Value;

use super::check::Stage;

const NOBODY: &str = "https://localhost:1";

/// All that a release needs but the secret itself.
fn complete(stage: &Stage) -> String {
    format!(
        "[service]\nbase-url = \"{base}\"\nauthority = \"{base}\"\nscope = \"{scope}\"\n\
         ca-file = \"ca.pem\"\n\
         [identity]\ntenant-id = \"{tenant}\"\nclient-id = \"{client}\"\n\
         client-secret-file = \"secret\"\n",
        base = stage.mock.base_url(),
        scope = stage.mock.scope(),
        tenant = stage.mock.tenant_id(),
        client = stage.mock.client_id(),
    )
}

/// Writes it, with the files that it names, in its own folder.
fn configured() -> Stage {
    configure(Stage::new())
}

fn configure(stage: Stage) -> Stage {
    let folder = stage
        .configure(&complete(&stage))
        .parent()
        .unwrap()
        .to_owned();
    std::fs::write(folder.join("ca.pem"), stage.mock.ca_pem().unwrap()).unwrap();
    std::fs::write(folder.join("secret"), stage.mock.client_secret()).unwrap();
    stage
}

fn release(stage: &Stage) -> [String; 5] {
    let id = stage.mock.machine_ids().swap_remove(0);
    ["unrestrict", &id, "--comment", "x", "--no-wait"].map(str::to_owned)
}

#[test]
fn with_a_configuration_a_release_needs_no_flag_and_no_variable() {
    let stage = configured();
    let _ = stage.bare(release(&stage)).exits(0);
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 1);
}

#[test]
fn a_configured_pin_keeps_every_other_plugin_out() {
    let stage = configured();
    let pinned = |sha256: &str| {
        stage.configure(&format!(
            "{}[plugin]\nsha256 = \"{sha256}\"\n",
            complete(&stage)
        ));
    };
    let right = Digest::of(BUNDLED).to_string();
    pinned(&right);
    let _ = stage.bare(release(&stage)).exits(0);
    pinned(&Digest::of(b"another").to_string());
    let (_, said) = stage.bare(release(&stage)).exits(2);
    assert!(said.contains(&right), "{said}");
    pinned("abc");
    let (_, said) = stage.bare(release(&stage)).exits(2);
    assert!(said.contains("config.toml:11: plugin.sha256: "), "{said}");
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 1);
}

#[test]
fn it_is_found_in_the_users_folder_or_by_name_and_never_where_one_stands() {
    let stage = configured();
    let elsewhere = stage.home().join("elsewhere");
    std::fs::rename(stage.home().join(".config/host-demo"), &elsewhere).unwrap();
    let name = elsewhere.join("config.toml");
    for place in [
        "config.toml",
        "host-demo/config.toml",
        "host-demo.toml",
        ".host-demo.toml",
    ] {
        let place = stage.home().join(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(&name, place).unwrap();
    }
    let (_, err) = stage.bare(release(&stage)).exits(2);
    assert!(err.contains("no credentials"), "{err}");
    // A relative folder is none (XDG Base Directory Specification).
    let (_, err) = stage
        .bare(release(&stage))
        .env("XDG_CONFIG_HOME", ".")
        .exits(2);
    assert!(err.contains("no credentials"), "{err}");

    let by_name = stage
        .bare(release(&stage))
        .args(["--config", "elsewhere/config.toml"]);
    let _ = by_name.exits(0);
    let (_, err) = stage
        .bare(release(&stage))
        .args(["--config", "nowhere.toml"])
        .exits(2);
    assert!(err.contains("nowhere.toml can't be read"), "{err}");
}

#[test]
fn what_holds_is_shown_with_where_it_came_from_and_no_secret() {
    let stage = configured();
    let file = stage.home().join(".config/host-demo/config.toml");
    let args = ["config", "show", "--timeout", "5s", "--token-file", "t"];
    let (out, err) = stage.bare(args).env("AZURE_TENANT_ID", "from-env").exits(0);
    for line in [
        format!("# {}", file.display()),
        format!(
            "service.base-url             {}  ({}:2)",
            stage.mock.base_url(),
            file.display()
        ),
        "identity.tenant-id           from-env  (environment AZURE_TENANT_ID)".to_owned(),
        "identity.token-file          t  (flag --token-file)".to_owned(),
        "call.timeout                 5s  (flag --timeout)".to_owned(),
        "quota                        100 calls per 1m, 1500 calls per 1h  (default)".to_owned(),
    ] {
        assert!(
            out.lines().any(|l| l == line),
            "no line {line:?} in\n{out}{err}"
        );
    }
    assert!(
        !out.contains("client-secret"),
        "a flag goes before it:\n{out}"
    );

    let secret = "hunter2";
    let show = || {
        stage
            .bare(["config", "show"])
            .env("AZURE_CLIENT_SECRET", secret)
    };
    let (out, err) = show().args(["-vvv"]).exits(0);
    let line = "identity.client-secret       set, hidden  (environment AZURE_CLIENT_SECRET)";
    assert!(out.contains(line), "{out}");
    let (json, more) = show().args(["--output", "json"]).exits(0);
    for text in [&out, &err, &json, &more] {
        assert!(!text.contains(secret), "{text}");
    }
    let json: Value = serde_json::from_str(&json).unwrap();
    let rows = json["values"].as_array().unwrap();
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap();
    assert_eq!(row("service.scope")["where"], 4);
    assert_eq!(row("identity.client-secret")["value"], Value::Null);
    assert_eq!(row("call.timeout")["source"], "default");
}

#[test]
fn a_mistake_is_named_with_its_file_and_line_and_nothing_is_sent() {
    let stage = configured();
    let path = stage.configure(&format!("{}[call]\ntimeot = \"5s\"\n", complete(&stage)));
    for args in [
        &release(&stage)[..],
        &["check".into()],
        &["config".into(), "show".into()],
    ] {
        let (_, err) = stage.bare(args).exits(2);
        let expected = format!(
            "{}:11: unknown key call.timeot; did you mean call.timeout?",
            path.display()
        );
        assert!(err.contains(&expected), "{err}");
    }
    assert_eq!(stage.mock.requests().len(), 0);
}

#[test]
fn the_printed_example_is_a_configuration() {
    let stage = Stage::new();
    let (example, _) = stage.bare(["config", "example"]).exits(0);
    stage.configure(&example);
    let (out, err) = stage.bare(["config", "show"]).exits(0);
    assert!(out.contains("service.region               eu"), "{out}");
    // What it names and does not bring along.
    assert!(
        err.contains("identity.client-secret-file: ") && err.contains("is not there"),
        "{err}"
    );
}

#[test]
fn what_a_run_would_stumble_over_is_shown_with_its_file_its_line_and_a_remedy() {
    let stage = configured();
    let base = complete(&stage);
    let show = |more: &str| {
        let path = stage.configure(&format!("{base}{more}"));
        let (out, err) = stage.bare(["config", "show"]).exits(2);
        assert_eq!(out, "", "{err}");
        err.replace(&path.display().to_string(), "FILE")
    };
    for (more, told) in [
        (
            "auth = \"client-secrets\"",
            "FILE:10: identity.auth: there is no \"client-secrets\"; did you mean",
        ),
        (
            "auth = \"token-file\"",
            "FILE:10: identity.auth: no token file is named: token-file, --token-file",
        ),
        (
            "[network]\nproxy = \"http://user:hunter2@localhost:1\"",
            "FILE:11: network.proxy: the proxy's URL has credentials in it",
        ),
        (
            "[[quota]]\ncalls = 1000\nper = \"1m\"",
            "FILE:11: quota: the service takes 100 calls at most in 1m, and this says 1000",
        ),
    ] {
        let err = show(more);
        assert!(err.contains(told), "{more}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
    stage.configure(&base);
    let (_, err) = stage
        .bare(["check", "--proxy", "http://user:hunter2@localhost:1"])
        .exits(2);
    assert!(
        err.contains("--proxy: the proxy's URL has") && !err.contains("hunter2"),
        "{err}"
    );
    assert_eq!(stage.mock.requests().len(), 0);
}

#[test]
fn a_configuration_that_other_users_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = configured();
    let path = stage.configure(&complete(&stage));
    let change = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    change(0o602);
    let (_, err) = stage.bare(release(&stage)).exits(2);
    assert!(
        err.contains("is not used") && err.contains("chmod go-w"),
        "{err}"
    );
    assert_eq!(stage.mock.requests().len(), 0);
    change(0o644);
    let (_, err) = stage.bare(["config", "show"]).exits(0);
    assert_eq!(err, "");
}

#[test]
fn the_configuration_can_be_named_before_the_subcommand_and_behind_it() {
    let stage = configured();
    let elsewhere = stage.home().join("elsewhere");
    std::fs::rename(stage.home().join(".config/host-demo"), &elsewhere).unwrap();
    let base = stage.mock.base_url();
    for args in [
        &["config", "show", "--config", "elsewhere/config.toml"][..],
        &["--config", "elsewhere/config.toml", "config", "show"],
        &["config", "--config", "elsewhere/config.toml", "show"],
        &["--config", "elsewhere/config.toml", "inspect"],
    ] {
        let (out, _) = stage.bare(args).exits(0);
        assert!(out.contains(base), "{args:?}: {out}");
    }
    let (_, err) = stage.bare(["--config", "nowhere.toml", "check"]).exits(2);
    assert!(err.contains("nowhere.toml can't be read"), "{err}");
}

#[test]
fn the_record_and_its_ticket_can_be_configured_and_verifying_finds_it() {
    let stage = configured();
    let base = complete(&stage);
    let path = stage.configure(&format!(
        "{base}[audit]\nfile = \"record.jsonl\"\nticket = \"INC-42\"\n"
    ));
    let _ = stage.bare(release(&stage)).exits(0);
    let record = path.with_file_name("record.jsonl");
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains("\"INC-42\""), "{text}");
    let (out, _) = stage.bare(["audit", "verify"]).exits(0);
    let told = format!("{}: intact", record.display());
    assert!(out.contains(&told), "{out}");
    let (out, _) = stage.bare(["config", "show"]).exits(0);
    assert!(out.contains("audit.ticket                 INC-42"), "{out}");
}

#[test]
fn a_private_address_can_be_permitted_by_the_configuration() {
    let stage = Stage::new();
    let service = |permitted: &str| {
        stage.configure(&format!(
            "[service]\nbase-url = \"https://127.0.0.1.invalid\"\nauthority = \
             \"https://127.0.0.1.invalid\"\nscope = \"x/.default\"\n\
             [network]\nallow-addresses = [{permitted}]\n"
        ));
        stage.bare(["config", "show"])
    };
    let (out, _) = service("\"10.1.0.0/16\", \"10.2.0.1\"").exits(0);
    let line = "network.allow-addresses      10.1.0.0/16, 10.2.0.1";
    assert!(out.contains(line), "{out}");
    let (_, err) = service("\"10.1.0.0/33\"").exits(2);
    assert!(
        err.contains("config.toml:6: network.allow-addresses"),
        "{err}"
    );
}

#[test]
fn a_flag_that_names_a_cloud_leaves_nothing_of_the_configured_service() {
    let stage = configured();
    let (out, _) = stage
        .bare(["config", "show", "--cloud", "gcc-high"])
        .exits(0);
    assert!(
        out.contains("gcc-high") && !out.contains(stage.mock.base_url()),
        "{out}"
    );
    let (_, err) = stage
        .bare(["config", "show", "--cloud", "gcc", "--region", "eu"])
        .exits(2);
    assert!(err.contains("the cloud gcc has no regions"), "{err}");
    let (_, err) = stage.bare(["config", "show", "--cloud", "gov"]).exits(2);
    assert!(err.contains("gcc-high"), "{err}");
}

#[test]
fn what_entra_issues_for_a_cloud_is_asked_for_at_that_cloud_only() {
    let stage = Stage::new();
    let scope = "https://api.securitycenter.microsoft.com/.default";
    let entra = "https://login.microsoftonline.com";
    let args = [
        "check",
        "--base-url",
        stage.mock.base_url(),
        "--authority",
        entra,
    ];
    let (_, err) = stage.bare(args).args(["--scope", scope]).exits(2);
    assert!(err.contains("must not be sent to"), "{err}");
    let (_, err) = stage
        .bare(["check"])
        .env("AZURE_AUTHORITY_HOST", NOBODY)
        .exits(2);
    assert!(err.contains("AZURE_AUTHORITY_HOST"), "{err}");
    assert_eq!(stage.mock.requests().len(), 0);
}

#[test]
fn what_the_policy_denies_is_logged_with_the_rule_that_pasted_allows_it() {
    let stage = configured();
    let base = complete(&stage);
    stage.configure(&format!(
        "{base}[policy]\nallow = [\"GET /api/machineactions/{{action-id}}\"]\n"
    ));
    let (_, err) = stage.bare(release(&stage)).args(["-v"]).exits(2);
    // The reading of what is under way, and the release.
    let rules: Vec<&str> = err
        .split("rule=\"")
        .skip(1)
        .map(|rule| rule.split('"').next().unwrap())
        .collect();
    assert_eq!(
        rules,
        [
            "GET /api/machineactions?{action-filter}&{page}",
            "POST /api/machines/{machine-id}/unrestrictCodeExecution"
        ]
    );
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 0);

    stage.configure(&format!("{base}[policy]\nallow = [\"{}\"]\n", rules[1]));
    let _ = stage.bare(release(&stage)).exits(0);
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 1);

    let (out, _) = stage.bare(["inspect"]).exits(0);
    assert!(
        out.contains(stage.mock.base_url()) && !out.contains("GET /api"),
        "{out}"
    );
}

#[test]
fn a_variable_that_makes_somebody_else_of_us_is_told_of() {
    let stage = configured();
    let args = ["config", "show"];
    let (_, err) = stage.bare(args).env("AZURE_TENANT_ID", "t").exits(0);
    assert_eq!(err, "");
    let elsewhere = stage.home().join("ca.pem");
    let variable = "AZURE_FEDERATED_TOKEN_FILE";
    let shown = stage.bare(args).env(variable, elsewhere.to_str().unwrap());
    let (_, err) = shown.exits(0);
    assert!(
        err.contains("config.toml:9: identity.client-secret-file is not used, because AZURE_FED"),
        "{err}"
    );
    let check = stage.bare(["check"]).env("AZURE_CLIENT_SECRET", "x");
    let (_, err) = check.exits(2);
    assert!(
        err.contains("is not used, because AZURE_CLIENT_SECRET is set"),
        "{err}"
    );
    // A flag is seen by whoever uses it.
    let args = ["config", "show", "--token-file", "ca.pem"];
    let (_, err) = stage.bare(args).env("AZURE_CLIENT_SECRET", "x").exits(0);
    assert_eq!(err, "");
}

#[test]
fn a_credential_for_an_authority_without_tls_is_refused_with_its_place() {
    let stage = configured();
    let plain = complete(&stage).replace("authority = \"https", "authority = \"http");
    stage.configure(&plain);
    for args in [["config", "show"], ["check", "-v"]] {
        let (_, err) = stage.bare(args).exits(2);
        assert!(
            err.contains("config.toml:3: service.authority: a credential is sent over https://"),
            "{err}"
        );
    }
    std::fs::write(stage.home().join("token"), "opaque").unwrap();
    let args = ["config", "show", "--token-file", "token"];
    let _ = stage.bare(args).exits(0);
}

#[test]
fn certificates_that_are_none_are_told_with_the_files_name() {
    let stage = configured();
    let bad = stage.home().join("bad.pem");
    for text in [
        "nothing",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        std::fs::write(&bad, text).unwrap();
        for flag in ["--ca-file", "--authority-ca-file"] {
            let (_, err) = stage.bare(["check", flag, "bad.pem"]).exits(2);
            assert!(err.contains("CA file bad.pem: "), "{err}");
        }
    }
}

#[test]
fn what_follows_and_what_holds_by_default_is_shown_too() {
    let stage = Stage::new();
    let home = stage.home().display().to_string();
    let (out, _) = stage.bare(["config", "show", "--cloud", "gcc"]).exits(0);
    for line in [
        "service.base-url             https://api-gcc.securitycenter.microsoft.us  (default)",
        "service.authority            https://login.microsoftonline.com  (default)",
        "service.scope                https://api-gcc.securitycenter.microsoft.us/.default  (default)",
        "identity.auth                client-secret  (default)",
        &format!(
            "audit.file                   {home}/.local/state/host-demo/audit.jsonl  (default)"
        ),
        &format!(
            "audit.key                    {home}/.local/share/host-demo/keys/audit.key  (default)"
        ),
        &format!(
            "ledger.at                    {home}/.local/state/host-demo/ledger.sqlite  (default)"
        ),
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line} in\n{out}");
    }
    let variable = "AZURE_FEDERATED_TOKEN_FILE";
    let (out, _) = stage.bare(["config", "show"]).env(variable, "t").exits(0);
    assert!(out.contains("workload-identity  (default)"), "{out}");
}

#[test]
fn a_policy_can_allow_nothing() {
    let stage = configured();
    let base = complete(&stage);
    stage.configure(&format!("{base}[policy]\nallow = []\n"));
    let (out, _) = stage.bare(["config", "show"]).exits(0);
    assert!(
        out.contains("policy.allow                 nothing  ("),
        "{out}"
    );
    let (_, err) = stage.bare(release(&stage)).args(["-v"]).exits(2);
    assert!(err.contains("rule="), "{err}");
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 0);
}

#[test]
fn a_scope_beside_a_cloud_is_an_error() {
    let stage = Stage::new();
    for other in [["--cloud", "gcc"], ["--region", "eu"]] {
        let flags = ["config", "show", "--scope", "https://x.test/.default"];
        let (_, err) = stage.bare(flags).args(other).exits(2);
        assert!(err.contains("--scope") && err.contains(other[0]), "{err}");
    }
}

#[test]
fn the_configured_quota_is_the_one_that_is_kept() {
    let stage = configure(Stage::scaled(200));
    let base = complete(&stage);
    stage.configure(&format!("{base}[[quota]]\ncalls = 1\nper = \"1m\"\n"));
    let args = [
        "unrestrict",
        "--comment",
        "x",
        "--no-wait",
        "--time-scale",
        "200",
    ];
    let _ = stage.bare(args).args(stage.mock.machine_ids()).exits(0);
    let minute = std::time::Duration::from_secs(60);
    let most = stage
        .mock
        .most_in_any_window(Api::UnrestrictCodeExecution, minute);
    assert_eq!(
        (stage.mock.arrivals(Api::UnrestrictCodeExecution), most),
        (3, 1)
    );
}
