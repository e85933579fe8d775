//! What stands below the arguments in the help: examples, exit codes, and what else is to be known.

/// The headings under which flags say what a command works with: the service, the credentials, the
/// files. Every other command that it suggests needs the same.
pub(crate) const CONTEXT_HEADINGS: [&str; 6] = [
    "Service", "Network", "Identity", "Audit", "Quotas", "Journal",
];

pub(crate) const EXAMPLES: &str = "\
Examples:
  host-demo check
  host-demo restricted --comment-contains INC-42
  host-demo unrestrict --from devices.csv --comment 'INC-42: cleaned' --dry-run
  host-demo unrestrict --from devices.csv --comment 'INC-42: cleaned'
  host-demo unrestrict 1e5bc9d7e413ddd7902c2932e418702b84d0cc07 --comment 'INC-42: cleaned and validated'
  host-demo unrestrict --by-name pc-1.contoso.com --comment 'INC-42: cleaned'
  host-demo status 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a
  host-demo cancel 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a --comment 'INC-42: wrong device'
  host-demo report last --html report.html

Exit codes:
  0  all that was asked for is confirmed (with --no-wait: accepted)
  1  some of it failed, can't be known to have succeeded, or is not on record
  2  it could not run: wrong arguments, no credentials, no connection
  3  none failed, but some are still pending or can't be verified
  130  interrupted

With --output json, standard output has one JSON object a line. Its \"type\" says what it is: run,
device, name (that leads to no device), summary, report, action, check, pilot, config, plugin, quota,
audit, gateway or error. What went wrong stands in its \"error\", as a \"message\" and, where there is something
to do about it, an \"advice\"; that holds for wrong arguments too. The other commands print text: completion,
config example.";

/// Where credentials come from: at the end of the help of every subcommand that wants some.
macro_rules! credentials {
    () => {
        "\
Credentials come from the environment, never from arguments:
  AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET  an application with the permission
                                                         Machine.RestrictExecution
  AZURE_AUTHORITY_HOST                                   the authority of a service of one's own
or from files: --client-secret-file, --token-file. With --auth METHOD, from elsewhere:
  client-secret       as above; this is the default
  client-certificate  AZURE_CLIENT_CERTIFICATE_PATH, a PEM file with the certificate and its key
  workload-identity   AZURE_FEDERATED_TOKEN_FILE, another issuer's token that the application trusts
  managed-identity    the Azure machine that this runs on
  azure-cli           the user who is signed in: az login
  device-code         a user who signs in with a browser, here or elsewhere
  token-file          --token-file: a token at hand, used as it is
  default             the first that is there, without device-code and token-file
A file can be what another command prints: --token-file <(COMMAND), or /dev/stdin.

"
    };
}

/// What holds for every run.
macro_rules! run_help {
    ($done:literal) => {
        concat!(
            "\
Before anything is sent it is read what is under way: a device for which the same was asked already
is followed by that action, and one with the opposite under way is reported and left alone. What may
have arrived is looked up before it is repeated. Reading needs the permission Machine.Read.All;
without it, what was accepted is `not-verifiable`.

Each step is kept in a journal, so that a run that was interrupted, by Ctrl-C, a crash or a power
cut, goes on with: host-demo resume RUN. Ctrl-C brings what is in flight to its answer, and says
what is known of every device; a second one ends at once.

Exit codes:
  0  every device is ",
            $done,
            " (with --no-wait: every request was accepted)
  1  some failed, can't be known to have succeeded, or are not on record
  2  it could not run: wrong arguments, no credentials, no connection
  3  none failed, but some are still pending, held back, or can't be verified
  130  interrupted
"
        )
    };
}

pub(crate) const UNRESTRICT_HELP: &str = concat!(
    credentials!(),
    run_help!("free"),
    "
Examples:
  host-demo unrestrict 1e5bc9d7e413ddd7902c2932e418702b84d0cc07 --comment 'INC-42: cleaned'
  host-demo unrestrict --from devices.csv --comment 'INC-42: cleaned' --dry-run
  host-demo unrestrict --from devices.csv --comment 'INC-42: cleaned' --deadline 8h
  host-demo unrestrict --by-name pc-1.contoso.com pc-2.contoso.com --comment 'INC-42: cleaned'
  host-demo unrestrict --by-name --from export.csv --comment 'INC-42: cleaned' --skip-invalid
  host-demo unrestrict ID1 ID2 ID3 --comment 'INC-42: cleaned' --no-wait --output json"
);

pub(crate) const RESTRICTED_HELP: &str = concat!(
    credentials!(),
    "\
It is read off the machine actions, at most 20 pages of 1,000, with the permission
Machine.Read.All: a device is restricted if what succeeded last is a restriction. One that was
created before --since is not seen. On a terminal it prints a table; into a file or another
command, a table with commas (CSV), which `unrestrict --from` reads.

Exit codes:
  0  these are all
  1  what was done is not on record
  2  it could not run: wrong arguments, no credentials, no connection, reading forbidden
  3  there may be more, or others: not all actions were read, or they don't say which was last

Examples:
  host-demo restricted
  host-demo restricted --since 7d --comment-contains INC-42
  host-demo restricted --comment-contains INC-42 | host-demo unrestrict --from - --comment cleaned"
);

pub(crate) const RESTRICT_HELP: &str = concat!(
    credentials!(),
    run_help!("restricted"),
    "
The configuration must allow it (`allow`, see host-demo config example).

Examples:
  host-demo restrict 1e5bc9d7e413ddd7902c2932e418702b84d0cc07 --comment 'INC-42: contain'
  host-demo restrict --from devices.csv --comment 'INC-42: contain' --yes"
);

pub(crate) const RESUME_HELP: &str = concat!(
    credentials!(),
    run_help!("free, or restricted"),
    "
Examples:
  host-demo resume last
  host-demo resume 20260130-2111 --deadline 2h
  host-demo resume last --retry"
);

pub(crate) const CANCEL_HELP: &str = concat!(
    credentials!(),
    "\
The configuration must allow it, by this rule in the list `allow` of its [policy] (see host-demo
config example): \"POST /api/machineactions/{action-id}/cancel\". The permission is that of one of the
actions that there are; Machine.RestrictExecution is one, whatever the action. What the service
leaves open is looked up, which needs Machine.Read.All.

Each action comes to one of these:
  cancelled     it is. Its device may have done it all the same, if it had begun with it
  ended-before  it has ended in another way
  pending       the service took it, and the action does not show it yet
  refused       the service did not do it
  unknown       it is not known whether the service did it. Cancelling again does no harm
  not-run       nothing was sent

Ctrl-C brings what is in flight to its answer, and says what is known of every action; a second one
ends at once.

Exit codes:
  0  every action is cancelled
  1  some are not, can't be known to be, or are not on record
  2  it could not run: wrong arguments, not allowed, no credentials, no connection
  3  none failed, but some do not show it yet
  130  interrupted

Examples:
  host-demo cancel 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a --comment 'INC-42: wrong device'
  host-demo cancel ID1 ID2 ID3 --comment 'INC-42: wrong devices' --output json"
);

pub(crate) const STATUS_HELP: &str = concat!(
    credentials!(),
    "\
A device is restricted if what succeeded last of its restrictions and releases is a restriction.
The newest 50 of them are shown.

Exit codes:
  0  the action has succeeded; or the device is restricted or released (the text and \"standing\"
     say which), and nothing is under way
  1  the action has ended otherwise, the service did not show it, or that is not on record
  2  it could not run: wrong arguments, no credentials, no connection
  3  something is still under way, or it can't be told whether the device is restricted

Examples:
  host-demo status 8a5c34dc-9ca9-4be4-b3c2-4c70e4bfb69a
  host-demo status 1e5bc9d7e413ddd7902c2932e418702b84d0cc07 --output json"
);

pub(crate) const GATEWAY_HELP: &str = concat!(
    credentials!(),
    "\
It is for engines that can't hook the requests of what they run: stock hosts of components, and
connectors in other languages. Policy, quotas, identity and record are those of the other commands,
and the token stays here. A request is sent once, and only as its capability says; what has no
capability, a used one or one whose time is up is refused. With -v there is a line for each call.

  1. The engine asks for a capability, for one operation on one target with one comment. It can
     have the gateway wait for the quota (wait_seconds).
  2. Its guest sends one request to base_url, with the capability as its bearer token, at once: the
     call is over at expires_at, which is as long as one may take (--timeout).

Example:
  host-demo gateway --listen 127.0.0.1:8787 --key-file ~/.gateway.key -v

  # Not an argument of curl's, which all can see.
  bearer() { printf 'header = \"Authorization: Bearer %s\"' \"$1\"; }
  id=1e5bc9d7e413ddd7902c2932e418702b84d0cc07
  capability=$(bearer \"$(cat ~/.gateway.key)\" | curl -sS --config - \\
    --json '{\"operation\": \"unrestrict-code-execution\", \"target\": \"'$id'\",
             \"comment\": \"INC-42: cleaned\"}' \\
    http://127.0.0.1:8787/capabilities | jq -r .capability)
  bearer \"$capability\" | curl -sS --config - --json '{\"Comment\": \"INC-42: cleaned\"}' \\
    http://127.0.0.1:8787/api/machines/$id/unrestrictCodeExecution

Or, for a component that takes its connection from the environment, in a stock host:
  export DEFENDER_BASE_URL=http://127.0.0.1:8787 DEFENDER_TOKEN=$capability
  wasmtime run -S http --env DEFENDER_BASE_URL --env DEFENDER_TOKEN \\
    --invoke 'unrestrict-code-execution(\"'$id'\", \"INC-42: cleaned\")' defender-endpoint-env.wasm

Ctrl-C, or what a service manager sends, ends it after the calls that are under way; capabilities
that were not used give their calls back to the quota.

Exit codes:
  0  it was ended
  1  what came of a call is not on record
  2  it could not run: wrong arguments, no loopback address, no credentials"
);

pub(crate) const CHECK_HELP: &str = concat!(
    credentials!(),
    "\
It resolves the service's name, connects, fetches a token, and reads an action that
does not exist, which costs one call of the quota for reading.

Exit codes:
  0  all is well
  1  releases work, with limits: another right is missing, or something is about to fail
  2  releases do not work

With --pilot DEVICE it then restricts that device, releases it, and answers what Microsoft's
documentation leaves open. Use a test device: it runs only programs signed by Microsoft for some
minutes. A device that is restricted or has an action in progress is refused. Restricting needs
this rule in the list `allow` of the configuration's [policy]:
\"POST /api/machines/{machine-id}/restrictCodeExecution\". The file of --record has the exchange
without ids, names, users, addresses, comments or tokens. An interrupted pilot releases the device.

Exit codes of a pilot:
  0  the device was restricted and is released
  1  the device may still be restricted, or something failed or is limited
  2  nothing was changed: refused, not confirmed, not allowed, or no connection
  3  the release was accepted, and is not seen to be done
  130  interrupted

Examples:
  host-demo check
  host-demo check --pilot pc-test-1.contoso.com --record pilot.json --config pilot.toml"
);

/// The exit codes of what either works or does not.
macro_rules! plain_exit_codes {
    () => {
        "\
Exit codes:
  0  done
  1  some of the output could not be written
  2  it could not run, and says why"
    };
}

pub(crate) const PLAIN_EXIT_CODES: &str = plain_exit_codes!();

pub(crate) const SHOW_HELP: &str = concat!(credentials!(), plain_exit_codes!());

pub(crate) const VERIFY_HELP: &str = "\
Without a log and a key, nothing was recorded yet, or an attacker removed both and the runs: only a
hash that was noted elsewhere (--head) shows that.

Exit codes:
  0  all of it is intact, or there is no audit log yet
  1  it is damaged
  2  that can't be told, or a log or its key is missing";

pub(crate) const RUNS_HELP: &str = "\
A run that was `interrupted` goes on with: host-demo resume RUN.

Examples:
  host-demo runs
  host-demo runs show last
  host-demo runs purge --older-than 90d

Exit codes:
  0  they were shown
  1  one of them can't be read, or the output can't be written
  2  the folder can't be read";

pub(crate) const PURGE_HELP: &str = "\
With a run goes the way to resume it, and to find its open actions again. What was done stands
in the audit record as well, which stays.

Examples:
  host-demo runs purge 20260130-211122-abcd
  host-demo runs purge --older-than 90d --yes

Exit codes:
  0  all of them are removed
  1  some are not: they are driven, or have open devices, or can't be removed
  2  none is: there is no such run, or nobody who says yes";

pub(crate) const REPORT_HELP: &str = "\
The page needs nothing else and loads nothing: it can be mailed, archived or printed. Its address
says how the devices are shown, and a link leads to what somebody saw: report.html#outcome=failed.

Examples:
  host-demo report last
  host-demo report last --html report.html
  host-demo report 20260130-211122-abcd --csv devices.csv

Exit codes:
  0  it was written
  1  some of the output could not be written
  2  there is no such run, or it can't be read, or the file can't be written";

pub(crate) const QUOTA_HELP: &str = "\
Examples:
  host-demo quota
  host-demo quota --forecast 1650
  host-demo quota --watch

Where a ledger was lost, nothing is sent for one whole window (an hour): as many calls as the quota
allows may have been made in it. `quota open` overrules that.

Exit codes:
  0  it was shown, or done
  2  the ledger can't be used";
