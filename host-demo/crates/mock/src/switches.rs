//! What nobody outside Microsoft can say for certain, as settings.
//!
//! One table below gives each open question its field, its default, its name on a command line and
//! its help text. Where a default is a guess the text says so.

use std::time::Duration;

use super::setting::Setting;

/// Why a switch could not be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// There is no switch of that name.
    #[error("there is no switch {name:?}; there are: {known}")]
    Name {
        /// The name that was given.
        name: String,
        /// All names.
        known: String,
    },
    /// The switch does not have that value.
    #[error("the switch {name} cannot be {value:?}; it can be: {values}")]
    Value {
        /// The switch.
        name: String,
        /// The value that was given.
        value: String,
        /// What it can be.
        values: String,
    },
}

/// A switch, for a help text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchDoc {
    /// Its name on a command line, such as `per-minute`.
    pub name: String,
    /// The values it can have.
    pub values: String,
    /// The value it has when nobody sets it.
    pub default: String,
    /// The question that it answers, and why the default is what it is.
    pub question: String,
}

macro_rules! choices {
    ($($(#[$doc:meta])+ $name:ident { $($(#[$each:meta])+ $choice:ident = $text:literal),+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$each])+ $choice),+ }

        impl Setting for $name {
            fn values() -> String {
                [$($text),+].join(" | ")
            }
            fn read(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$choice),)+ _ => None }
            }
            fn show(&self) -> String {
                match self { $(Self::$choice => $text.to_owned()),+ }
            }
        }
    )+};
}

macro_rules! switches {
    ($($(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr;)+) => {
        /// Every open question about the service, with the answer that the stand-in gives.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Switches { $($(#[doc = $doc])+ pub $field: $type,)+ }

        impl Default for Switches {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        impl Switches {
            /// Sets a switch by its name, as on a command line.
            ///
            /// # Errors
            ///
            /// For an unknown name or value; the error lists the possible ones.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), SwitchError> {
                match name.replace('-', "_").as_str() {
                    $(stringify!($field) => self.$field = read(name, value)?,)+
                    _ => {
                        let known: Vec<_> = Self::describe().into_iter().map(|s| s.name).collect();
                        return Err(SwitchError::Name { name: name.to_owned(), known: known.join(", ") });
                    }
                }
                Ok(())
            }

            /// All switches, in the order of the fields.
            pub fn describe() -> Vec<SwitchDoc> {
                let default = Self::default();
                vec![$(SwitchDoc {
                    name: stringify!($field).replace('_', "-"),
                    values: <$type as Setting>::values(),
                    default: default.$field.show(),
                    question: concat!($($doc),+).trim().to_owned(),
                }),+]
            }
        }
    };
}

fn read<T: Setting>(name: &str, value: &str) -> Result<T, SwitchError> {
    T::read(value).ok_or_else(|| SwitchError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        values: T::values(),
    })
}

choices! {
    /// What a call gets while an action of its kind is under way.
    Duplicate {
        /// The running action, as a success.
        Return = "return",
        /// 400 `ActiveRequestAlreadyExists`.
        Reject = "reject",
        /// The running action within ten seconds of the previous call, 400 later.
        Mixed = "mixed",
        /// An action of its own beside the running one.
        Create = "create"
    }
    /// The status of an answer that holds a running action.
    ReturnedStatus {
        /// 200.
        Ok = "200",
        /// 201.
        Created = "201"
    }
    /// How far an action under way bars others.
    Lock {
        /// It bars actions of its own type.
        PerType = "per-type",
        /// It bars both types.
        PerDevice = "per-device"
    }
    /// What a release of a device gets that is not restricted.
    Unneeded {
        /// An action that succeeds.
        Accept = "accept",
        /// An action that fails.
        Fail = "fail",
        /// 400.
        Reject = "reject"
    }
    /// The error for a body without `Comment`.
    MissingComment {
        /// `MissingRequiredParameter`.
        MissingParameter = "missing-parameter",
        /// `InvalidRequestBody`.
        InvalidBody = "invalid-body"
    }
    /// What is done with something doubtful.
    Doubtful {
        /// It is let through.
        Accept = "accept",
        /// It is answered with 400.
        Reject = "reject"
    }
    /// The answer to a body that is not declared as JSON.
    ContentType {
        /// 415 without a body.
        Unsupported = "415",
        /// 400 `InvalidRequestBody`.
        BadRequest = "400",
        /// It is read as JSON all the same.
        Accept = "accept"
    }
    /// What is looked at first.
    CheckOrder {
        /// 403 before 404.
        RoleFirst = "role-first",
        /// 404 before 403.
        MachineFirst = "machine-first"
    }
    /// Which filters a list of actions takes.
    ListFilter {
        /// All that are documented.
        Any = "any",
        /// All but one by id.
        NoId = "no-id",
        /// One condition, with `eq` or `ge`, that is not about the id.
        Simple = "simple",
        /// None.
        Nothing = "nothing"
    }
    /// How the body of an answer is encoded.
    ContentEncoding {
        /// As it is.
        Identity = "identity",
        /// Gzip.
        Gzip = "gzip",
        /// Deflate in zlib's format.
        Deflate = "deflate",
        /// Deflate without a header, as some servers send it.
        RawDeflate = "raw-deflate",
        /// It says that it is brotli.
        Brotli = "br"
    }
    /// How letters are compared.
    Case {
        /// Upper and lower case are the same.
        Insensitive = "insensitive",
        /// They differ.
        Sensitive = "sensitive"
    }
    /// What names a machine in the path of an action.
    MachineName {
        /// Its Defender id.
        DeviceId = "device-id",
        /// Its Defender id, Entra device id or DNS name.
        Any = "any"
    }
    /// Who is named as `requestor`.
    Requestor {
        /// The application's display name.
        Name = "name",
        /// The application's id.
        Id = "id"
    }
    /// Which permission reads machine actions.
    ReadRole {
        /// `Machine.Read.All` or `Machine.ReadWrite.All`.
        Either = "either",
        /// `Machine.ReadWrite.All` only.
        ReadWrite = "read-write"
    }
    /// How a missing permission is put.
    ForbiddenWording {
        /// `Missing application roles. API required roles: …`
        Current = "current",
        /// `The application does not have any of the required application permissions …`
        Old = "old"
    }
    /// The form of an error's `target`.
    Target {
        /// A GUID.
        Guid = "guid",
        /// `|` and hexadecimal digits.
        Hierarchical = "hierarchical",
        /// No target.
        Absent = "absent"
    }
    /// How a quota's window is laid.
    Window {
        /// Every window, wherever it begins.
        Sliding = "sliding",
        /// One that begins with its first call.
        Fixed = "fixed"
    }
    /// The form of `Retry-After`.
    RetryAfter {
        /// Seconds.
        Seconds = "seconds",
        /// An HTTP date.
        Date = "date",
        /// No such header.
        Absent = "absent"
    }
    /// The `code` of a 429.
    QuotaCode {
        /// `429`.
        Number = "429",
        /// `TooManyRequests`.
        Name = "TooManyRequests"
    }
    /// The `message` of a 429.
    QuotaWording {
        /// It names the key, and the seconds to wait.
        KeyAndWait = "key-and-wait",
        /// It names the quota only.
        Short = "short"
    }
    /// The body of an injected server error.
    ServerErrorBody {
        /// The error document.
        Envelope = "envelope",
        /// Nothing.
        Empty = "empty",
        /// A page.
        Html = "html"
    }
    /// What a user does who is shown a device code.
    UserSignIn {
        /// They sign in and agree.
        Approve = "approve",
        /// They sign in and decline.
        Decline = "decline",
        /// Nothing.
        Nothing = "nothing"
    }
    /// What becomes of an action that the device has taken up, when it is cancelled.
    LateCancel {
        /// The device stops.
        Stops = "stops",
        /// The device finishes it all the same.
        Finishes = "finishes"
    }
    /// What the cancelling of an action gets that has ended.
    EndedCancel {
        /// 400.
        Reject = "reject",
        /// The action as it is.
        Return = "return"
    }
    /// The order of a list.
    ListOrder {
        /// The newest first.
        NewestFirst = "newest-first",
        /// The oldest first.
        OldestFirst = "oldest-first"
    }
    /// What a search gets that finds no machine.
    NoMachines {
        /// An empty list.
        Empty = "empty",
        /// 404.
        NotFound = "not-found"
    }
    /// Whether a response header is there.
    Header {
        /// It is.
        Present = "present",
        /// It is not.
        Absent = "absent"
    }
}

switches! {
    /// What does a call get while an action of its kind is under way for the device? Users report
    /// the running action as well as a 400, "depending on the time since the previous call"
    /// (MicrosoftDocs/microsoft-365-docs#5906), and for isolation a second action (#5903). The
    /// boundary of `mixed`, ten seconds, is made up.
    duplicate: Duplicate = Duplicate::Reject;
    /// With which status does the running action come back? Unknown; 201 is what every other
    /// success has.
    returned_status: ReturnedStatus = ReturnedStatus::Created;
    /// Does a restriction under way bar a release, and the other way round? Not documented; a
    /// release was accepted while an isolation was pending (microsoft-365-docs#5903).
    lock: Lock = Lock::PerType;
    /// What does the release of a device get that is not restricted? Unknown; no documented error
    /// fits.
    unrestricted_device: Unneeded = Unneeded::Accept;
    /// What does the restriction of a device get that is restricted already? Unknown as well.
    restricted_device: Unneeded = Unneeded::Accept;
    /// Does a device stop that has begun with an action which is then cancelled? Elastic's code
    /// says that a late cancellation can show `Cancelled` although the work was done.
    late_cancel: LateCancel = LateCancel::Stops;
    /// What does the cancelling of an action get that has ended? Unknown; the 400 is made up.
    ended_cancel: EndedCancel = EndedCancel::Reject;

    /// Which error answers a body without `Comment`, or with a key such as `comment`? Microsoft,
    /// "Common REST API error codes", names both.
    missing_comment: MissingComment = MissingComment::MissingParameter;
    /// What of a comment that is empty or blank? Unknown; a required string in ASP.NET refuses
    /// them unless told otherwise.
    blank_comment: Doubtful = Doubtful::Reject;
    /// How many characters may a comment have? No limit is documented or reported.
    max_comment: Option<u32> = None;
    /// What of a body with properties that are not documented, such as `ExternalId`? Unknown.
    unknown_property: Doubtful = Doubtful::Accept;
    /// What of a body that is not declared as application/json? The header is documented as
    /// required; 415 is what ASP.NET does.
    content_type: ContentType = ContentType::Unsupported;

    /// Is a missing role reported before a machine that does not exist? Unknown; most services
    /// authorize first.
    check_order: CheckOrder = CheckOrder::RoleFirst;
    /// Are the path's own words compared with regard to case? Documented samples write `/API/`.
    path_case: Case = Case::Insensitive;
    /// Are machine ids compared with regard to case? Unknown.
    id_case: Case = Case::Insensitive;
    /// What may name the machine in an action's path? Microsoft documents the id only; one vendor
    /// claims all three.
    machine_name: MachineName = MachineName::DeviceId;

    /// In which order are actions listed? Microsoft's example of a filter with `$top=2` is said to
    /// show "the latest two".
    list_order: ListOrder = ListOrder::NewestFirst;
    /// Are values compared with regard to case in a filter of actions? Unknown; OData's `eq` does.
    filter_case: Case = Case::Sensitive;
    /// Which filters does a list of actions take? Today's page names the id among the properties;
    /// users report that a filter by id got 400 (MicrosoftDocs/microsoft-365-docs#6231).
    list_filter: ListFilter = ListFilter::Any;
    /// Is an answer compressed that was asked for as `identity`? The service's is not, as far as is
    /// known; proxies do it.
    content_encoding: ContentEncoding = ContentEncoding::Identity;
    /// Does a page that is not the last one have an `@odata.nextLink`? Elastic's code follows one.
    next_link: Header = Header::Present;
    /// Are names of machines compared with regard to case in a filter? Unknown; OData's `eq` does.
    name_case: Case = Case::Sensitive;
    /// What does a search get that finds no machine? Documented is 404 where there are "no recent
    /// machines"; whether that is so for a filter is unknown.
    no_machines: NoMachines = NoMachines::Empty;

    /// Is a new action's `requestor` the application's name or id? Records until 2022 have the id,
    /// later ones the name.
    requestor: Requestor = Requestor::Name;
    /// Which host does `@odata.context` name? It is not always the one that was called.
    context_host: String = "api.security.microsoft.com".to_owned();
    /// Does a 201 have a `Location`? Unknown.
    location: Header = Header::Absent;

    /// How long stays an action `Pending`, on a device that is online? Samples of all kinds of
    /// actions took 8 to 88 seconds in all.
    pending: Duration = Duration::from_secs(20);
    /// How long is it `InProgress` then? 0s leaves that state out.
    in_progress: Duration = Duration::from_secs(20);
    /// After which time does an action of an offline device become `TimeOut`? A real restriction
    /// did after some three days, which Microsoft documents for isolation.
    time_out: Option<Duration> = Some(Duration::from_secs(72 * 3600));
    /// For how long does reading a new action find nothing? Clients allow for up to 5 seconds.
    visible_after: Duration = Duration::from_secs(5);

    /// Which permission reads machine actions? Microsoft's older pages give both, the newest one
    /// only Machine.ReadWrite.All.
    read_role: ReadRole = ReadRole::Either;
    /// How is a missing permission put? The old words are of 2021 (microsoft-365-docs#6062).
    forbidden_wording: ForbiddenWording = ForbiddenWording::Current;
    /// Which form has the correlation id in an error's `target`? Documented is a GUID; the other
    /// form was seen (microsoft-365-docs#13047), and so were errors without one.
    target: Target = Target::Guid;
    /// Does a 401 have `WWW-Authenticate`? RFC 6750 demands it; no record shows it.
    www_authenticate: Header = Header::Absent;
    /// May a browser's page call the API (CORS)? Unknown.
    cors: Header = Header::Absent;
    /// Which body has a server error? Unknown: nothing but "retry" is documented. It applies to
    /// injected errors; the stand-in has none of its own.
    server_error_body: ServerErrorBody = ServerErrorBody::Envelope;

    /// How many calls a minute may one application make to one endpoint? Documented: 100.
    per_minute: Option<u32> = Some(100);
    /// How many an hour? Documented: 1500.
    per_hour: Option<u32> = Some(1500);
    /// How is the window laid? Unknown; the wording of the error resembles ASP.NET rate limiters
    /// whose windows begin with their first call. Sliding is the stricter.
    quota_window: Window = Window::Sliding;
    /// Does a call that was refused for the quota count, too? Unknown.
    rejected_calls_count: bool = false;
    /// Which form has `Retry-After`? Documented: seconds. No recorded 429 shows the header.
    retry_after: RetryAfter = RetryAfter::Seconds;
    /// What is the `code` of a 429? Documented is the name, recorded the number
    /// (microsoft-365-docs#4616).
    quota_code: QuotaCode = QuotaCode::Number;
    /// What is the `message` of a 429? `short` was recorded in 2021, `key-and-wait` in 2022.
    quota_wording: QuotaWording = QuotaWording::KeyAndWait;

    /// Which audiences does the API accept? The legacy resource even on the new host (Microsoft,
    /// "Create an application to access Microsoft Defender for Endpoint without a user"). For the
    /// government clouds clients disagree. The first one is what the stand-in advertises.
    audiences: Vec<String> = vec![
        "https://api.securitycenter.microsoft.com".to_owned(),
        "https://securitycenter.onmicrosoft.com/windowsatpservice".to_owned(),
    ];
    /// Which audience does the token endpoint give out? `none`: the one that was asked for. A
    /// wrong one was seen (microsoft-365-docs#9246).
    token_audience: Option<String> = None;
    /// For how long does a token hold? Entra's default is 60 to 90 minutes; the documented sample
    /// says 3599 seconds.
    token_lifetime: Duration = Duration::from_secs(3599);
    /// Which application roles does the client have? By default what releasing and following a
    /// device needs, and no more. An empty value: none, which Entra allows.
    roles: Vec<String> = vec!["Machine.RestrictExecution".to_owned(), "Machine.Read.All".to_owned()];
    /// Which delegated permissions has a user's token? By default those of the same two rights.
    user_scopes: Vec<String> = vec!["Machine.RestrictExecution".to_owned(), "Machine.Read".to_owned()];
    /// What does the user do who is shown a device code? They come after the first poll.
    user_sign_in: UserSignIn = UserSignIn::Approve;
    /// For how long is a device code good? Documented: 900 seconds.
    device_code_lifetime: Duration = Duration::from_secs(900);
    /// Does a refresh token hold? At Entra it does for 90 days of use, unless it is revoked.
    refresh_tokens: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_switch_can_be_set_to_what_its_help_says_is_the_default() {
        let mut switches = Switches::default();
        for doc in Switches::describe() {
            switches
                .set(&doc.name, &doc.default)
                .unwrap_or_else(|e| panic!("{doc:?}: {e}"));
            assert!(doc.question.contains('?'), "{doc:?}");
        }
        assert_eq!(switches, Switches::default());
    }

    #[test]
    fn every_choice_that_a_help_text_lists_can_be_made() {
        for doc in Switches::describe()
            .iter()
            .filter(|d| !d.values.starts_with("a "))
        {
            for value in doc
                .values
                .split(" | ")
                .filter(|_| doc.values.contains(" | "))
            {
                Switches::default()
                    .set(&doc.name, value)
                    .unwrap_or_else(|e| panic!("{doc:?}: {e}"));
            }
        }
    }

    #[test]
    fn switches_are_set_by_name() {
        let mut switches = Switches::default();
        for (name, value) in [
            ("duplicate", "return"),
            ("per-minute", "none"),
            ("per_hour", "25"),
            ("time-out", "30m"),
            ("roles", "Machine.Isolate, Machine.Scan"),
            ("token-audience", "https://graph.microsoft.com"),
        ] {
            switches.set(name, value).unwrap();
        }
        let expected = Switches {
            duplicate: Duplicate::Return,
            per_minute: None,
            per_hour: Some(25),
            time_out: Some(Duration::from_secs(1800)),
            roles: vec!["Machine.Isolate".to_owned(), "Machine.Scan".to_owned()],
            token_audience: Some("https://graph.microsoft.com".to_owned()),
            ..Switches::default()
        };
        assert_eq!(switches, expected);
    }

    #[test]
    fn a_refused_setting_says_what_would_do() {
        let mut switches = Switches::default();
        let value = switches.set("duplicate", "perhaps").unwrap_err();
        assert_eq!(
            value.to_string(),
            "the switch duplicate cannot be \"perhaps\"; it can be: return | reject | mixed | create"
        );
        let name = switches.set("duplicates", "reject").unwrap_err();
        assert!(
            name.to_string()
                .contains("duplicate, returned-status, lock"),
            "{name}"
        );
        assert!(switches.set("pending", "-5s").is_err(), "a time before now");
        assert_eq!(switches, Switches::default());
    }
}
