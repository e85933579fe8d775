//! Shows the main job as a user would do it: the built `host-demo` against the stand-in.
//!
//! It takes the `host-demo` beside itself. Everything is kept in a temporary folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use defender_core::clock::{Clock, SystemClock};
use defender_mock::{ActionType, Api, DeviceBehaviour, Duplicate, Ending, Fault, Mock, Switches};
use tempfile::TempDir;

/// How many times as fast time runs: a minute takes three seconds.
const SCALE: u32 = 20;

/// Enough devices to exhaust the quota of a minute, which is 100 calls.
const MANY: usize = 150;

/// How many responses are lost on the way.
const LOST: u32 = 3;

const COMMENT: &str = "INC-42: cleaned and validated";

#[tokio::main]
async fn main() -> ExitCode {
    match show().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn show() -> Result<()> {
    let program = std::env::current_exe()?.with_file_name("host-demo");
    ensure!(program.is_file(), "{} is not built", program.display());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::scaled(SCALE));
    let switches = Switches {
        duplicate: Duplicate::Reject,
        ..Switches::default()
    };
    let mock = Mock::builder()
        .clock(Arc::clone(&clock))
        .machines(MANY as u64 + 2)
        .switches(switches)
        .start()
        .await?;
    let user = User::new(program, &mock)?;
    let ids = mock.machine_ids();
    let [first, second, many @ ..] = &ids[..] else {
        bail!("the stand-in has no devices");
    };

    println!(
        "After an incident, devices run only Microsoft-signed programs. They are clean now, and"
    );
    println!(
        "are released against a stand-in for Defender and Entra. Time runs {SCALE} times as fast."
    );

    step("The plugin is a WebAssembly component. It gets no clock, file, socket or secret:");
    user.run(&["inspect"], 0)?;
    step("The host signs in, and checks what it needs without changing anything:");
    user.run(&["check"], 0)?;
    step("Release one device, and wait until the device has done it:");
    user.run(&["unrestrict", first, "--comment", COMMENT], 0)?;
    step("A text that is not a device id is rejected before a request is made:");
    user.run(&["unrestrict", "abc/offboard?", "--comment", COMMENT], 2)?;
    step("A device that the service does not know:");
    user.run(&["unrestrict", &"f".repeat(40), "--comment", COMMENT], 1)?;
    step("A device that is already being released: the existing action is followed.");
    ensure!(
        mock.begin(
            ActionType::UnrestrictCodeExecution,
            second,
            "INC-42",
            "another user"
        ),
        "the stand-in refused the other user's action"
    );
    // Until it is listed.
    wait(&clock, 10).await;
    user.run(&["unrestrict", second, "--comment", COMMENT], 0)?;
    many_devices(&user, &mock, &clock, many).await?;

    println!("\nTo try it yourself, start a stand-in: defender-mock --help");
    mock.shutdown().await;
    Ok(())
}

/// Releases a list of devices. Responses are lost, a device is offline, one fails, another user
/// restricts one, and the run is interrupted and resumed.
async fn many_devices(
    user: &User,
    mock: &Mock,
    clock: &Arc<dyn Clock>,
    ids: &[String],
) -> Result<()> {
    step(&format!(
        "Release {} devices of a list. The service takes 100 calls a minute and 1,500 an hour.",
        ids.len()
    ));
    println!(
        "  {LOST} responses are lost, a device is offline, one fails, and one is being restricted again."
    );
    println!("  Ctrl-C is pressed when the first minute's quota is used.");
    let [offline, failing, restricted, ..] = ids else {
        bail!("there are too few devices");
    };
    mock.set_device(offline, DeviceBehaviour::Offline);
    mock.set_device(failing, DeviceBehaviour::Ends(Ending::Failed));
    mock.set_device(restricted, DeviceBehaviour::Offline);
    let restrict = ActionType::RestrictCodeExecution;
    mock.begin(restrict, restricted, "INC-43", "another user");
    // Until it is listed.
    wait(clock, 10).await;
    let lost = Fault::reset().after_acting().times(LOST);
    mock.inject(lost.on(Api::UnrestrictCodeExecution));
    fs::write(user.folder.path().join("devices.txt"), ids.join("\n"))?;

    let release = [
        "unrestrict",
        "--from",
        "devices.txt",
        "--yes",
        "--comment",
        COMMENT,
    ];
    let enough = mock.arrivals(Api::UnrestrictCodeExecution) + 100;
    let mut run = user.start(&release)?;
    interrupt(&mut run, clock, || {
        mock.arrivals(Api::UnrestrictCodeExecution) >= enough
    })
    .await?;

    step("Resume it. Ctrl-C ends the wait for the device that is offline:");
    let released = || {
        let all = ids.iter();
        all.filter(|id| mock.is_restricted(id) == Some(false))
            .count()
    };
    let mut run = user.start(&["resume", "last"])?;
    interrupt(&mut run, clock, || released() == ids.len() - 3).await?;
    step("What the service has recorded:");
    let released = released();
    let releases = |id: &&String| {
        let actions = mock.actions_of(id);
        let releases = |a: &&_| is_release(a);
        actions.iter().filter(releases).count() > 1
    };
    let twice = ids.iter().filter(releases).count();
    println!("    {released} devices are released, {twice} of them twice");
    let most = mock.most_in_any_window(Api::UnrestrictCodeExecution, Duration::from_secs(60));
    println!("    the fullest minute had {most} calls");
    ensure!(released == ids.len() - 3, "some devices were not released");
    ensure!(twice == 0, "a device was released twice");
    ensure!(most <= 100, "the quota was exceeded");
    Ok(())
}

/// Presses Ctrl-C half a minute after something has come about, and waits for the end.
async fn interrupt(
    run: &mut Child,
    clock: &Arc<dyn Clock>,
    is_time: impl Fn() -> bool,
) -> Result<()> {
    while !is_time() {
        ensure!(run.try_wait()?.is_none(), "the run ended too early");
        wait(clock, 1).await;
    }
    wait(clock, 30).await;
    let id = run.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status()?;
    ensure!(sent.success(), "the run could not be interrupted");
    expect(run, 130)
}

fn is_release(action: &defender_mock::MachineAction) -> bool {
    action.r#type == ActionType::UnrestrictCodeExecution
}

fn step(text: &str) {
    println!("\n* {text}");
}

async fn wait(clock: &Arc<dyn Clock>, seconds: u64) {
    let time = Duration::from_secs(seconds);
    clock.sleep_until(clock.now() + time).await;
}

/// A user's home folder with a configuration for the stand-in, and the command.
struct User {
    program: PathBuf,
    folder: TempDir,
}

impl User {
    fn new(program: PathBuf, mock: &Mock) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings = folder.path().join(".config/host-demo");
        fs::create_dir_all(&settings)?;
        let ca = mock.ca_pem().context("the stand-in has no certificate")?;
        fs::write(settings.join("ca.pem"), ca)?;
        write_secret(&settings.join("client-secret"), mock.client_secret())?;
        let config = format!(
            "[service]\nbase-url = {:?}\nauthority = {:?}\nscope = {:?}\nca-file = \"ca.pem\"\n\n\
             [identity]\ntenant-id = {:?}\nclient-id = {:?}\nclient-secret-file = \"client-secret\"\n\n\
             [call]\ntimeout = \"2m\"\n\n\
             # Without a ledger, calls in scaled time are counted for each process alone.\n\
             [ledger]\nat = \"ledger.sqlite\"\n",
            mock.base_url(),
            mock.authority(),
            mock.scope(),
            mock.tenant_id(),
            mock.client_id(),
        );
        fs::write(settings.join("config.toml"), config)?;
        Ok(Self { program, folder })
    }

    /// Shows a command and runs it. Its output goes where this program's goes.
    fn run(&self, args: &[&str], code: i32) -> Result<()> {
        expect(&mut self.start(args)?, code)
    }

    fn start(&self, args: &[&str]) -> Result<Child> {
        let quoted = args.iter().map(|arg| match arg.contains([' ', '?']) {
            true => format!("'{arg}'"),
            false => (*arg).to_owned(),
        });
        println!("  $ host-demo {}", quoted.collect::<Vec<_>>().join(" "));
        let mut command = Command::new(&self.program);
        command.args(args);
        if !matches!(args, ["inspect", ..]) {
            command.args(["--time-scale", &SCALE.to_string()]);
        }
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(std::env::var_os("TERM").map(|term| ("TERM", term)))
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{} does not start", self.program.display()))
    }
}

fn expect(run: &mut Child, code: i32) -> Result<()> {
    let status = run.wait()?;
    ensure!(
        status.code() == Some(code),
        "the command ended with {status}, not with exit code {code}"
    );
    Ok(())
}

/// Writes a file that only this user can read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    defender_core::files::write(path, text.as_bytes())?;
    Ok(())
}
