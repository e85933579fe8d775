//! The command uses no file that another user of the machine could have written.
//!
//! Other users act here by permissions. Where the tests run as root, files are given away as well.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use defender_mock::Api;
use host_demo::plugin::BUNDLED;

use super::check::{Run, Stage};

const OTHER: u32 = 2000;

fn change(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What other users may have done to a file, and the command that fixes it.
fn attacks(path: &Path) -> Vec<(Box<dyn Fn() + '_>, String)> {
    let folder = path.parent().unwrap();
    let shown = |path: &Path| path.canonicalize().unwrap().display().to_string();
    let mode = path.metadata().unwrap().mode();
    let mut attacks: Vec<(Box<dyn Fn()>, String)> = vec![(
        Box::new(move || change(path, 0o666)),
        format!("chmod go-w {}", shown(path)),
    )];
    attacks.push((
        Box::new(move || {
            change(path, mode);
            change(folder, 0o777);
        }),
        format!("chmod go-w {}", shown(folder)),
    ));
    if path.metadata().unwrap().uid() == 0 {
        attacks.push((
            Box::new(move || {
                change(folder, 0o700);
                chown(path, Some(OTHER), None).unwrap();
            }),
            format!("chown -h 0 {}", shown(path)),
        ));
    }
    attacks
}

/// Expects that a command does not use a file after each attack, sends nothing, and names the fix.
#[track_caller]
fn is_not_used(stage: &Stage, path: &Path, command: impl Fn() -> Run) {
    let before = stage.mock.requests().len();
    for (attack, fix) in attacks(path) {
        attack();
        let (_, err) = command().exits(2);
        assert!(err.contains(&fix), "{fix} is not in\n{err}");
        assert_eq!(stage.mock.requests().len(), before, "{fix}");
    }
}

fn release(stage: &Stage) -> Run {
    let id = stage.mock.machine_ids().swap_remove(0);
    stage.run(["unrestrict", &id, "--comment", "x", "--no-wait"])
}

/// A file in a folder of its own.
fn file(stage: &Stage, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let folder = stage.home().join("files").join(name);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("file");
    fs::write(&path, content).unwrap();
    change(&path, 0o600);
    path
}

#[test]
fn a_configuration_that_another_user_could_have_written() {
    let stage = Stage::new();
    let path = stage.configure("[call]\ntimeout = \"5s\"\n");
    let _ = release(&stage).exits(0);
    is_not_used(&stage, &path, || release(&stage));
    let named = file(&stage, "config", "");
    fs::remove_file(path).unwrap();
    is_not_used(&stage, &named, || {
        release(&stage).args(["--config", named.to_str().unwrap()])
    });
}

#[test]
fn a_ca_file_that_another_user_could_have_written() {
    let stage = Stage::new();
    for flag in ["--ca-file", "--authority-ca-file"] {
        let path = file(&stage, flag, stage.mock.ca_pem().unwrap());
        let command = || {
            let id = stage.mock.machine_ids().swap_remove(0);
            let (base, scope) = (stage.mock.base_url(), stage.mock.scope());
            stage
                .bare(["unrestrict", &id, "--comment", "x", "--no-wait"])
                .args(["--base-url", base, "--authority", base, "--scope", &scope])
                .args([flag, path.to_str().unwrap()])
        };
        is_not_used(&stage, &path, command);
    }
}

#[test]
fn a_credential_that_another_user_could_have_written() {
    let stage = Stage::new();
    for flag in ["--token-file", "--client-secret-file"] {
        let path = file(&stage, flag, stage.mock.client_secret());
        is_not_used(&stage, &path, || {
            release(&stage).args([flag, path.to_str().unwrap()])
        });
    }
    let path = file(&stage, "certificate", "x");
    is_not_used(&stage, &path, || {
        release(&stage)
            .args(["--auth", "client-certificate"])
            .env("AZURE_CLIENT_CERTIFICATE_PATH", path.to_str().unwrap())
    });
    let path = file(&stage, "federated", "x");
    is_not_used(&stage, &path, || {
        release(&stage)
            .args(["--auth", "workload-identity"])
            .env("AZURE_FEDERATED_TOKEN_FILE", path.to_str().unwrap())
    });
    let path = file(&stage, "proxy", "user:password");
    is_not_used(&stage, &path, || {
        release(&stage)
            .args(["--proxy", "http://localhost:1"])
            .args(["--proxy-credentials-file", path.to_str().unwrap()])
    });
    for flag in ["--ledger-password-file", "--ledger-ca-file"] {
        let path = file(&stage, flag, "x");
        is_not_used(&stage, &path, || {
            release(&stage)
                .args(["--ledger", "rediss://localhost:1"])
                .args([flag, path.to_str().unwrap()])
        });
    }
}

#[test]
fn a_plugin_that_another_user_could_have_written() {
    let stage = Stage::new();
    let path = file(&stage, "plugin", BUNDLED);
    let name = path.to_str().unwrap();
    is_not_used(&stage, &path, || release(&stage).args(["--plugin", name]));
    // What is pinned need not be trusted: its bytes are known.
    let pin = host_demo::plugin::Digest::of(BUNDLED).to_string();
    let pinned = ["--plugin", name, "--plugin-sha256", &pin];
    let _ = release(&stage).args(pinned).exits(0);
}

#[test]
fn a_journal_that_another_user_could_have_written() {
    let stage = Stage::new();
    let _ = release(&stage).exits(0);
    let runs = stage.home().join(".local/state/host-demo/runs");
    let mut files = all_below(&runs).into_iter();
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "sqlite");
    let journal = files.find(is_journal).unwrap();
    is_not_used(&stage, &journal, || stage.run(["resume", "last"]));
    let _ = stage.bare(["runs", "show", "last"]).exits(2);
}

#[test]
fn a_ledger_that_another_user_could_have_written() {
    let stage = Stage::new();
    let path = file(&stage, "ledger", "");
    let release = || release(&stage).args(["--ledger", path.to_str().unwrap()]);
    let _ = release().exits(0);
    let older = fs::read(&path).unwrap();
    let _ = release().exits(0);
    // An older copy, put there by somebody who may write to the file.
    fs::write(&path, older).unwrap();
    is_not_used(&stage, &path, release);

    let path = file(&stage, "shared", "");
    let folder = path.parent().unwrap();
    change(folder, 0o1777);
    let (_, err) = self::release(&stage)
        .args(["--ledger", path.to_str().unwrap()])
        .exits(2);
    assert!(err.contains("use a folder of your own"), "{err}");
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 2);
}

#[test]
fn an_audit_log_or_key_that_another_user_could_have_written() {
    let stage = Stage::new();
    let (log, key) = (file(&stage, "log", ""), file(&stage, "key", ""));
    fs::remove_file(&key).unwrap();
    let release = || {
        release(&stage)
            .args(["--audit", log.to_str().unwrap()])
            .args(["--audit-key", key.to_str().unwrap()])
    };
    let _ = release().exits(0);
    // A key that others can read is rejected as well, with another fix.
    change(key.parent().unwrap(), 0o777);
    let (_, err) = release().exits(2);
    assert!(err.contains("chmod go-w"), "{err}");
    change(key.parent().unwrap(), 0o700);
    let _ = release().exits(0);
    is_not_used(&stage, &log, release);
}

#[test]
fn a_gateway_key_where_another_user_can_write() {
    let stage = Stage::new();
    let path = file(&stage, "gateway", "");
    fs::remove_file(&path).unwrap();
    let folder = path.parent().unwrap();
    change(folder, 0o777);
    let (_, err) = stage
        .run(["gateway", "--key-file", path.to_str().unwrap()])
        .exits(2);
    let fix = format!("chmod go-w {}", folder.canonicalize().unwrap().display());
    assert!(err.contains(&fix), "{err}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left");
    let elsewhere = stage.home().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, folder.join("file.lock")).unwrap();
    let _ = stage
        .run(["gateway", "--key-file", path.to_str().unwrap()])
        .exits(2);
    assert!(!elsewhere.exists(), "a link is not followed");
}

/// Every file and folder below a folder.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let with_content = |path: PathBuf| match path.is_dir() {
        true => [all_below(&path), vec![path]].concat(),
        false => vec![path],
    };
    paths.flat_map(with_content).collect()
}

#[test]
fn compiled_code_is_created_for_the_user_alone_whatever_the_umask() {
    let stage = Stage::new();
    for umask in ["000", "022", "077"] {
        let cache = stage.home().join(umask);
        let _ = stage
            .after_umask(umask, ["inspect"])
            .env("XDG_CACHE_HOME", cache.to_str().unwrap())
            .exits(0);
        let made = all_below(&cache);
        assert!(made.iter().any(|path| path.is_file()), "{umask}");
        for path in made {
            let mode = path.metadata().unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{umask}: {}", path.display());
        }
    }
    let id = stage.mock.machine_ids().swap_remove(0);
    let args = ["unrestrict", &id, "--comment", "x", "--no-wait"];
    let _ = stage.connect(stage.after_umask("000", args)).exits(0);
    for path in all_below(&stage.home().join(".local")) {
        let mode = path.metadata().unwrap().mode();
        let is_ours = path.to_str().unwrap().contains("host-demo");
        assert!(!is_ours || mode & 0o077 == 0, "{}", path.display());
    }
}

#[test]
fn compiled_code_that_another_user_could_have_written_is_removed() {
    let stage = Stage::new();
    let cache = stage.home().join("cache");
    let inspect = || {
        stage
            .bare(["inspect", "-v"])
            .env("XDG_CACHE_HOME", cache.to_str().unwrap())
    };
    let _ = inspect().exits(0);
    let compiled = cache.join("host-demo/compiled");
    let entry = || {
        let mut files = all_below(&compiled).into_iter().filter(|p| p.is_file());
        files.find(|path| path.extension().is_none()).unwrap()
    };
    let good = fs::read(entry()).unwrap();
    let mut attacks: Vec<(u32, u32, Option<u32>)> =
        vec![(0o777, 0o600, None), (0o700, 0o666, None)];
    if entry().metadata().unwrap().uid() == 0 {
        attacks.push((0o700, 0o600, Some(OTHER)));
    }
    for (folder, file, owner) in attacks {
        let planted = entry();
        fs::write(&planted, b"planted").unwrap();
        change(&planted, file);
        change(&compiled, folder);
        if let Some(owner) = owner {
            chown(&planted, Some(owner), None).unwrap();
        }
        let (_, err) = inspect().exits(0);
        assert!(err.contains("compiled code was removed"), "{err}");
        // The planted entry is gone, and what is there now was compiled from the component.
        assert_eq!(fs::read(entry()).unwrap().len(), good.len());
        assert_eq!(compiled.metadata().unwrap().mode() & 0o777, 0o700);
        let (_, err) = inspect().exits(0);
        assert!(!err.contains("compiled code"), "{err}");
    }
}

/// Without the file, its pin, policy and quotas would not hold.
#[test]
fn a_configuration_that_may_have_been_removed_stops_the_command() {
    let stage = Stage::new();
    let folder = stage.home().join(".config/host-demo");
    fs::create_dir_all(&folder).unwrap();
    let id = stage.mock.machine_ids().swap_remove(0);
    let run = || stage.run(["unrestrict", &id, "--comment", "x", "--no-wait"]);
    change(&folder, 0o777);
    let (_, err) = run().exits(2);
    assert!(err.contains("may have been removed"), "{err}");
    assert!(err.contains("chmod go-w"), "{err}");
    assert_eq!(stage.mock.arrivals(Api::UnrestrictCodeExecution), 0);
    change(&folder, 0o755);
    run().exits(0);
}
