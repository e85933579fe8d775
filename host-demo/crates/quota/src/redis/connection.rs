//! A connection to the server, and which servers are good enough.

use std::time::Duration;

use redis::{
    Client, Cmd, Connection, FromRedisValue, InfoDict, IntoConnectionInfo as _, RedisError,
    ServerErrorKind, TlsCertificates, Value,
};
use url::Url;

use super::RedisOptions;
use crate::{LedgerError, LedgerProblem};

/// How long it may take to connect, and how long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

const SCRIPT: &str = include_str!("../redis.lua");

/// What can go wrong with a request. Whether the server has done what it was told is not known.
pub(super) enum Failure {
    /// The server has closed the connection.
    Closed(LedgerError),
    Other(LedgerError),
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Closed(error) | Failure::Other(error) => error,
        }
    }
}

/// Where the server is.
pub(super) struct Place {
    name: String,
    client: Client,
    timeout: Duration,
}

/// A connection to a server, for as long as that runs.
pub(super) struct Link {
    connection: Connection,
    script: String,
    run: String,
    keeps_most: bool,
}

impl Link {
    /// What names this start of the server, and whether (1) or not (0) all but its last moments
    /// will be there after the next one.
    pub(super) fn run(&self) -> [String; 2] {
        [self.run.clone(), u8::from(self.keeps_most).to_string()]
    }

    /// A call of the script.
    pub(super) fn task(
        &self,
        task: &str,
        keys: &[impl AsRef<str>],
        time: Option<u64>,
        arguments: &[String],
    ) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.script).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        let time = time.map(|micros| micros.to_string()).unwrap_or_default();
        command.arg(task).arg(time).arg(arguments);
        command
    }
}

impl Place {
    pub(super) fn new(url: &str, options: &RedisOptions) -> Result<Self, LedgerError> {
        let url = address(url)?;
        let name = url.to_string();
        let timeout = options.timeout.unwrap_or(TIMEOUT);
        let client = || {
            let info = url.into_connection_info()?;
            let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
            if let Some(password) = &options.password {
                settings = settings.set_password(password);
            }
            let info = info.set_redis_settings(settings);
            let root_cert = options.authorities.clone();
            if root_cert.is_none() {
                return Client::open(info);
            }
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert,
            };
            Client::build_with_tls(info, certificates)
        };
        match client() {
            Ok(client) => Ok(Self {
                name,
                client,
                timeout,
            }),
            Err(error) => Err(LedgerError {
                ledger: name,
                problem: LedgerProblem::Unreachable(error.to_string()),
            }),
        }
    }

    /// Without a password: an address that has one is refused.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn error(&self, problem: LedgerProblem) -> LedgerError {
        let ledger = self.name.clone();
        LedgerError { ledger, problem }
    }

    /// To a server that does not lose calls without a trace.
    pub(super) fn connect(&self) -> Result<Link, Failure> {
        let connect = || {
            let connection = self.client.get_connection_with_timeout(self.timeout)?;
            connection.set_read_timeout(Some(self.timeout))?;
            connection.set_write_timeout(Some(self.timeout))?;
            Ok(connection)
        };
        let mut link = Link {
            connection: connect().map_err(|error| self.failed(&error))?,
            script: String::new(),
            run: String::new(),
            keeps_most: false,
        };
        link.script = self.one(&mut link, load())?;
        let info: InfoDict = self.one(&mut link, redis::cmd("INFO"))?;
        self.check(&info).map_err(Failure::Other)?;
        link.run = info.get("run_id").unwrap_or_default();
        link.keeps_most = info.get("aof_enabled") == Some(1);
        Ok(link)
    }

    fn check(&self, info: &InfoDict) -> Result<(), LedgerError> {
        let get = |name: &str| info.get::<String>(name);
        if get("role").as_deref() != Some("master") {
            return Err(self.error(LedgerProblem::Unreachable(IS_REPLICA.to_owned())));
        }
        let is_unsafe = |problem| Err(self.error(LedgerProblem::Unsafe(problem)));
        if get("run_id").is_none() {
            return is_unsafe("it does not say when it was restarted (run_id in INFO)".to_owned());
        }
        // Whatever `maxmemory` is: it can be set while the server runs.
        match get("maxmemory_policy").as_deref() {
            Some("noeviction") => Ok(()),
            policy => is_unsafe(format!(
                "it may drop keys to save memory: set its maxmemory-policy to noeviction (it is {})",
                policy.unwrap_or("not told")
            )),
        }
    }

    pub(super) fn one<T: FromRedisValue>(
        &self,
        link: &mut Link,
        command: Cmd,
    ) -> Result<T, Failure> {
        let mut values = self.send(link, &[command])?;
        self.parse(values.pop().unwrap_or(Value::Nil))
    }

    /// All at once.
    pub(super) fn all<T: FromRedisValue>(
        &self,
        link: &mut Link,
        commands: &[Cmd],
    ) -> Result<Vec<T>, Failure> {
        let mut values = self.send(link, commands)?;
        // From the first script on that it has forgotten it has forgotten all, so their order stays.
        let forgotten: Vec<usize> = (0..values.len())
            .filter(|at| is_forgotten(&values[*at]))
            .collect();
        if !forgotten.is_empty() {
            let again = forgotten.iter().map(|at| commands[*at].clone());
            let again: Vec<Cmd> = std::iter::once(load()).chain(again).collect();
            let found = self.send(link, &again)?;
            for (at, value) in forgotten.into_iter().zip(found.into_iter().skip(1)) {
                values[at] = value;
            }
        }
        values.into_iter().map(|value| self.parse(value)).collect()
    }

    fn send(&self, link: &mut Link, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |error| self.failed(&error);
        let connection = &mut link.connection;
        let packed: Vec<u8> = commands.iter().flat_map(Cmd::get_packed_command).collect();
        connection.send_packed_command(&packed).map_err(failed)?;
        // Not by the client's own pipeline: after an answer that did not come it waits for each of
        // the others.
        let answers = commands.iter().map(|_| connection.recv_response());
        answers.collect::<Result<_, _>>().map_err(failed)
    }

    fn parse<T: FromRedisValue>(&self, value: Value) -> Result<T, Failure> {
        let value = value.extract_error().map_err(|error| self.failed(&error))?;
        redis::from_redis_value(value).map_err(|error| {
            let problem = LedgerProblem::Damaged(error.to_string());
            Failure::Other(self.error(problem))
        })
    }

    fn failed(&self, error: &RedisError) -> Failure {
        let error_is = |problem: &str| self.error(LedgerProblem::Unreachable(problem.to_owned()));
        let detail = error.detail().unwrap_or_default();
        Failure::Other(match error.code() {
            Some("NOAUTH") => error_is(
                "it wants a password, and none was given: put it into HOST_DEMO_LEDGER_PASSWORD or a file (--ledger-password-file)",
            ),
            Some("WRONGPASS") => error_is("it refuses the user or the password"),
            Some("NOPERM") => error_is(&format!(
                "its user may not do all that is needed (~host-demo:* +@read +@write +@scripting \
                 +time +info): {detail}"
            )),
            Some("READONLY") => error_is(IS_REPLICA),
            Some("MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN") => error_is(
                "it is one of a cluster, and the key is with another: name a server that is not \
                 clustered, or the cluster's proxy",
            ),
            Some("OOM") => error_is("its memory is full: raise its maxmemory"),
            Some("WRONGTYPE") => self.error(LedgerProblem::Damaged(detail.to_owned())),
            Some(_) if detail.contains("user_script") => {
                self.error(LedgerProblem::Damaged(detail.to_owned()))
            }
            _ if error.is_timeout() => error_is(&format!("no answer within {:?}", self.timeout)),
            _ if error.is_connection_dropped() => {
                return Failure::Closed(error_is("it has closed the connection"));
            }
            _ => error_is(&error.to_string()),
        })
    }
}

const IS_REPLICA: &str = "it is a replica, which takes no orders: name the primary";

fn load() -> Cmd {
    let mut load = redis::cmd("SCRIPT");
    load.arg("LOAD").arg(SCRIPT);
    load
}

fn is_forgotten(value: &Value) -> bool {
    matches!(value, Value::ServerError(e) if e.kind() == Some(ServerErrorKind::NoScript))
}

/// One that can be shown to people.
fn address(url: &str) -> Result<Url, LedgerError> {
    let refused = |ledger: &str, problem| LedgerError {
        ledger: ledger.to_owned(),
        problem: LedgerProblem::Address(problem),
    };
    // Not repeated: there may be a password in it.
    let parsed = url.parse();
    let mut url: Url = parsed.map_err(|_| refused("a server without a name", NO_ADDRESS))?;
    let has_more = url.query().is_some() || url.fragment().is_some();
    url.set_query(None);
    url.set_fragment(None);
    if url.password().is_some() {
        let _ = url.set_password(None);
        return Err(refused(url.as_str(), PASSWORD));
    }
    let database = url.path().trim_start_matches('/');
    let is_address = matches!(url.scheme(), "redis" | "rediss")
        && url.has_host()
        && !has_more
        && (database.is_empty() || database.parse::<u16>().is_ok());
    if is_address {
        Ok(url)
    } else {
        Err(refused(url.as_str(), NO_ADDRESS))
    }
}

const NO_ADDRESS: &str = "write redis://host:port/database, or rediss:// for TLS";

const PASSWORD: &str = "a password in it would be seen in logs and in lists of processes: give it \
                        by an environment variable or a file";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for url in [
            "redis://user:hunter2@host/0",
            "rediss://:hunter2@host:6380",
            "redis://user:hunter2@host/0?x=hunter2",
            "redis://host/0?password=hunter2",
            "redis://host/hunter2#hunter2",
            "redis://user:hunter2@ho st",
        ] {
            let error = address(url).unwrap_err();
            assert!(matches!(error.problem, LedgerProblem::Address(_)), "{url}");
            let is_shown = error.ledger.contains("hunter2") && !url.contains("/hunter2");
            assert!(!is_shown, "{error}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_perhaps_a_user_a_port_and_a_database() {
        for url in [
            "redis://host",
            "redis://host:6380/3",
            "rediss://user@host/0",
            "redis://[::1]:7000",
        ] {
            address(url).unwrap();
        }
        for url in ["http://host", "redis://host/a", "redis:///0", "ledger.db"] {
            address(url).unwrap_err();
        }
    }
}
