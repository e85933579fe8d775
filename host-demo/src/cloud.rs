//! Which service: its origin, who issues tokens for it, and what a token is asked for.
//!
//! The clouds that Microsoft runs are a table. A token that is issued for a row goes to the row's
//! origins and to no others, and one for another API of Microsoft's to none but Microsoft's:
//! [`Service`] can't be made otherwise, and the boundary looks once more at what a token itself
//! says before it sends it (`Service::may_receive`).

use std::fmt;
use std::str::FromStr;

use crate::network::Network;
use crate::policy::{Origin, OriginError};

macro_rules! names {
    ($($(#[$doc:meta])+ $type:ident { $($(#[$each:meta])+ $case:ident = $name:literal),+ })+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$each])+ $case),+ }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$case),+];
            /// Their names, in the same order.
            pub const NAMES: &[&'static str] = &[$($name),+];
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$case => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = NoSuchName;

            fn from_str(text: &str) -> Result<Self, NoSuchName> {
                match text { $($name => Ok(Self::$case),)+ _ => Err(NoSuchName(Self::NAMES)) }
            }
        }
    )+};
}

names! {
    /// A cloud that Microsoft runs Defender for Endpoint in.
    ///
    /// There is none for China (21Vianet): Microsoft documents no host there.
    Cloud {
        /// The worldwide one.
        Commercial = "commercial",
        /// The worldwide one, by the name that its API had before.
        Legacy = "legacy",
        /// US Government Community Cloud.
        Gcc = "gcc",
        /// US Government Community Cloud High.
        GccHigh = "gcc-high",
        /// US Department of Defense.
        Dod = "dod"
    }
    /// A part of the commercial cloud with a host of its own, which is quicker to reach from there.
    Region {
        /// United States.
        Us = "us",
        /// Europe.
        Eu = "eu",
        /// United Kingdom.
        Uk = "uk",
        /// Australia.
        Au = "au",
        /// Switzerland.
        Swa = "swa",
        /// India.
        Ina = "ina",
        /// United Arab Emirates.
        Aea = "aea"
    }
}

/// No cloud, or no region, has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is none of that name; there are: {}", .0.join(", "))]
pub struct NoSuchName(&'static [&'static str]);

/// Where a cloud is, and how its tokens are named.
struct Row {
    cloud: Cloud,
    region: Option<Region>,
    base_url: &'static str,
    authority: &'static str,
    /// What tokens for it are issued for, the one to ask for first. The others are names of the
    /// same resource that clients were seen to use.
    audiences: &'static [&'static str],
}

/// Worldwide. Source: Microsoft, "Use Microsoft Defender for Endpoint APIs" (nativeapp) and "Create
/// an application to access Microsoft Defender for Endpoint without a user" (webapp).
const ENTRA: &str = "https://login.microsoftonline.com";

/// Source: Microsoft, "Microsoft Defender for Endpoint for US Government customers", API.
const ENTRA_GOVERNMENT: &str = "https://login.microsoftonline.us";

/// The application id of *WindowsDefenderATP*, which can stand for the resource in every cloud.
/// Source: Azure/Azure-Sentinel, playbooks that grant it permissions.
const WINDOWS_DEFENDER_ATP: &str = "fc780465-2017-40d4-a0c5-307022471b92";

/// The audience stays the older resource on the newer host: a token for
/// `api.security.microsoft.com` is refused there with 403. Source: Microsoft, "Use Microsoft
/// Defender for Endpoint APIs", 2026. The second and the third are what Microsoft's older pages and
/// other clients ask for (elastic/kibana, demisto/content,
/// splunk-soar-connectors/microsoftdefenderforendpoint).
const WORLDWIDE: &[&str] = &[
    "https://api.securitycenter.microsoft.com",
    "https://api.securitycenter.windows.com",
    "https://securitycenter.onmicrosoft.com/windowsatpservice",
    WINDOWS_DEFENDER_ATP,
];

/// Microsoft documents the hosts of the government clouds and not the audiences. The first is what
/// splunk-soar-connectors/microsoftdefenderforendpoint asks for, the second what demisto/content
/// does; a service that is named by base URL, authority and scope can have any of them.
const COMMUNITY: &[&str] = &[
    "https://api-gcc.securitycenter.microsoft.us",
    "https://securitycenter.onmicrosoft.com/windowsatpservice",
    WINDOWS_DEFENDER_ATP,
];

/// As for [`COMMUNITY`].
const GOVERNMENT: &[&str] = &[
    "https://api-gov.securitycenter.microsoft.us",
    "https://securitycenter.onmicrosoft.us/windowsatpservice",
    "https://api.securitycenter.microsoft.us",
    WINDOWS_DEFENDER_ATP,
];

const fn worldwide(cloud: Cloud, region: Option<Region>, base_url: &'static str) -> Row {
    Row {
        cloud,
        region,
        base_url,
        authority: ENTRA,
        audiences: WORLDWIDE,
    }
}

/// Sources of the hosts: Microsoft, "Supported Microsoft Defender for Endpoint APIs" (commercial
/// and legacy), "Use Microsoft Defender for Endpoint APIs" (the regions), "Microsoft Defender for
/// Endpoint for US Government customers" (the others).
const TABLE: &[Row] = &[
    worldwide(
        Cloud::Commercial,
        None,
        "https://api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Us),
        "https://us.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Eu),
        "https://eu.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Uk),
        "https://uk.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Au),
        "https://au.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Swa),
        "https://swa.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Ina),
        "https://ina.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Commercial,
        Some(Region::Aea),
        "https://aea.api.security.microsoft.com",
    ),
    worldwide(
        Cloud::Legacy,
        None,
        "https://api.securitycenter.microsoft.com",
    ),
    Row {
        cloud: Cloud::Gcc,
        region: None,
        base_url: "https://api-gcc.securitycenter.microsoft.us",
        authority: ENTRA,
        audiences: COMMUNITY,
    },
    Row {
        cloud: Cloud::GccHigh,
        region: None,
        base_url: "https://api-gov.securitycenter.microsoft.us",
        authority: ENTRA_GOVERNMENT,
        audiences: GOVERNMENT,
    },
    // Documented as one with GCC High.
    Row {
        cloud: Cloud::Dod,
        region: None,
        base_url: "https://api-gov.securitycenter.microsoft.us",
        authority: ENTRA_GOVERNMENT,
        audiences: GOVERNMENT,
    },
];

/// Other names of Entra's endpoints, which issue the same tokens (Microsoft, "National clouds", and
/// the `aliases` of its instance discovery document).
const ENTRA_HOSTS: &[&str] = &[
    "login.microsoftonline.com",
    "login.microsoft.com",
    "login.windows.net",
    "sts.windows.net",
    "login.microsoftonline.us",
    "login-us.microsoftonline.com",
    "login.usgovcloudapi.net",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
];

/// Domains whose names only Microsoft's own APIs have: Entra lets a tenant name an API by domains
/// that it has proven to be its own. (`onmicrosoft.com` is not among them: each tenant has a name
/// below it.) Sources: Microsoft, "Microsoft Graph national cloud deployments", "Compare Azure
/// Government and global Azure" and "Azure China developer guide", endpoints.
const MICROSOFTS_DOMAINS: &[&str] = &[
    "microsoft.com",
    "microsoft.us",
    "microsoftonline.com",
    "windows.com",
    "windows.net",
    "management.azure.com",
    "azure.net",
    "azure.cn",
    "usgovcloudapi.net",
    "chinacloudapi.cn",
    "office.com",
    "office365.com",
    "office365.us",
];

/// Such APIs, by their application ids: those that guard what an enterprise has. Source:
/// merill/microsoft-info, which gathers them from Microsoft Graph and Microsoft's pages.
const MICROSOFTS_APPLICATIONS: &[&str] = &[
    WINDOWS_DEFENDER_ATP,
    // Azure's resources.
    "797f4846-ba00-4fd7-ba43-dac1f8f63013",
    // Azure Key Vault, Storage, SQL Database, Cosmos DB, Data Lake, Data Explorer, Event Hubs,
    // Databricks, Kubernetes Service, Batch, Virtual Desktop and Cognitive Services.
    "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
    "e406a681-f3d4-42a8-90b6-c2b029497af1",
    "022907d3-0f1b-48f7-badc-1ba6abab6d66",
    "a232010e-820c-4083-83bb-3ace5fc29d0b",
    "e9f49c6b-5ce5-44c8-925d-015017e9f7ad",
    "2746ea77-4702-4b45-80ca-3c97e680e8b7",
    "80369ed6-5f11-4dd9-bef3-692475845e77",
    "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d",
    "6dae42f8-4368-4678-94ff-3960e28e3630",
    "ddbf3205-c6bd-46ae-8127-60eb93363864",
    "9cdead84-a844-4324-93f2-b2e6bb768d07",
    "7d312290-28c8-473c-a0ed-8e53749b6d6d",
    // Azure DevOps, Log Analytics and Application Insights.
    "499b84ac-1321-427f-aa17-267ca6975798",
    "ca7f3f0b-7d91-482c-8e09-c5d840d0eac5",
    "f5c26e74-f226-4ae8-85f0-b4af0080ac9e",
    // Intune and its parts, Defender for Cloud Apps, Azure's security, Information Protection.
    "c161e42e-d4df-4a3d-9b42-e7a3c31f59d4",
    "26a4ae64-5862-427f-a9b0-044e62572a4f",
    "0a5f63c0-b750-4f38-a71c-4fc0d58b89e2",
    "05a65629-4c1b-48c1-a78b-804c4abdd4af",
    "8edd93e1-2103-40b4-bd70-6e34e586362d",
    "40775b29-2688-46b6-a3b5-b256bd04df9f",
    // Office 365's management, Teams and its administration, Power Apps and Power Automate.
    "c5393580-f805-4401-95e8-94b7a6ef2fc2",
    "cc15fd57-2c6c-4117-a88c-83b1d56b4bbe",
    "48ac35b8-9aa8-4d74-927d-1f4a14a0b239",
    "475226c6-020e-4fb2-8a90-7a972cbfc1d4",
    "7df0a125-d3be-4c96-aa54-591f83ff541c",
    // Microsoft Threat Protection: `api.security.microsoft.com`, as an audience.
    "8ee8fdad-f234-4243-8f3b-15c294843740",
];

/// How the ids of Microsoft's oldest APIs end: Microsoft Graph, the directory, Exchange, SharePoint,
/// Power BI, Dynamics, Rights Management and more. No other application's does.
const MICROSOFTS_ENDINGS: [&str; 2] = ["-0000-c000-000000000000", "-0ff1-ce00-000000000000"];

/// An API's name in the form in which two can be compared. An application id stands alone, or as
/// `api://` and the id, or, where older clients asked, behind `spn:`.
fn resource_name(audience: &str) -> String {
    let name = audience.trim().trim_end_matches('/').to_ascii_lowercase();
    let bare = ["api://", "spn:"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(&name);
    match uuid::Uuid::try_parse(bare) {
        Ok(id) => id.to_string(),
        Err(_) => name,
    }
}

/// Whether two names are of one API, as far as the names tell.
fn is_same_resource(one: &str, other: &str) -> bool {
    resource_name(one) == resource_name(other)
}

/// Whether an audience is an API of Microsoft's own, Defender's or another.
fn is_microsofts(audience: &str) -> bool {
    let name = resource_name(audience);
    let host = host_of(
        name.split_once("://")
            .map_or(name.as_str(), |(_, rest)| rest),
    );
    let is_id = uuid::Uuid::try_parse(&name).is_ok();
    MICROSOFTS_APPLICATIONS.contains(&name.as_str())
        || is_id && MICROSOFTS_ENDINGS.iter().any(|end| name.ends_with(end))
        || MICROSOFTS_DOMAINS
            .iter()
            .any(|domain| is_within(host, domain))
        || TABLE.iter().any(|row| row.has(audience))
}

/// The host with which the rest of a URL begins, behind its scheme.
fn host_of(rest: &str) -> &str {
    let host = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
    host.trim_end_matches('.')
}

/// Whether a host is this one or one below it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether an API's name is one that the owner of an origin can have given it, where Entra issues
/// the tokens: by an application's id, by a name of the tenant's own making, or by a URL there or in
/// a domain above it. The names of Microsoft's APIs are too many for a list.
fn can_be_at(resource: &str, origin: &Origin) -> bool {
    let name = resource_name(resource);
    if is_microsofts(resource) {
        return false;
    }
    if uuid::Uuid::try_parse(&name).is_ok() || name.starts_with("api://") {
        return true;
    }
    let Some((_, rest)) = name.split_once("://") else {
        return false;
    };
    let (there, domain) = (origin.host().trim_end_matches('.'), host_of(rest));
    there == domain || domain.contains('.') && !is_address(there) && is_within(there, domain)
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

impl Row {
    fn has(&self, audience: &str) -> bool {
        self.audiences
            .iter()
            .any(|known| is_same_resource(known, audience))
    }

    fn is_at(&self, origin: &Origin) -> bool {
        self.base_url.parse().as_ref() == Ok(origin)
    }
}

/// Whether an origin is one of the table's.
pub fn is_known(origin: &Origin) -> bool {
    TABLE.iter().any(|row| row.is_at(origin))
}

/// Whether a token of this audience is one that this origin takes, as far as the table knows.
pub fn belongs_to(audience: &str, origin: &Origin) -> bool {
    TABLE
        .iter()
        .any(|row| row.is_at(origin) && row.has(audience))
}

/// Whether tokens of this audience may go to this origin, as far as the audience alone says: one
/// that is for a cloud of the table goes to that cloud, and one for another API of Microsoft's to
/// none but Microsoft's.
fn may_go(audience: &str, origin: &Origin) -> bool {
    if TABLE.iter().any(|row| row.has(audience)) {
        belongs_to(audience, origin)
    } else {
        is_known(origin) || !is_microsofts(audience)
    }
}

/// Whether tokens of this authority are Entra's, in whichever of its clouds. Its regions have names
/// of their own, below these, and a dot at the end makes no other name.
pub(crate) fn is_entra(authority: &Origin) -> bool {
    let host = authority.host().trim_end_matches('.');
    ENTRA_HOSTS.iter().any(|entra| is_within(host, entra))
}

/// A Defender service and the authority whose tokens it takes.
///
/// The three belong together: a token that was issued for the scope goes to this origin and to no
/// other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    origin: Origin,
    authority: Origin,
    scope: String,
    /// PEM texts, each with the origin that it counts for.
    cas: Vec<(Origin, Vec<u8>)>,
    network: Network,
}

/// A service that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The base URL is no origin.
    #[error("the base URL {text:?} is not usable: {problem}")]
    BaseUrl {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        problem: OriginError,
    },
    /// The authority is no origin.
    #[error("the authority {text:?} is not usable: {problem}")]
    Authority {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        problem: OriginError,
    },
    /// The scope does not end in `/.default`, which is the only form that an application can ask
    /// for (Microsoft identity platform, "OAuth 2.0 client credentials flow").
    #[error("the scope {0:?} must end in /.default")]
    Scope(String),
    /// Tokens of this scope are for an API of Microsoft's, and this origin is not that.
    #[error("a token for {scope} must not be sent to {origin}: it is for {}", owner(.clouds))]
    ForeignOrigin {
        /// What a token would be asked for.
        scope: String,
        /// Where it would go.
        origin: Origin,
        /// The clouds whose tokens they are. None, where they are for another API than Defender's.
        clouds: Vec<Cloud>,
    },
    /// Entra issues tokens for every API there is, and this scope does not say that its API is
    /// there.
    #[error(
        "a token for {scope} must not be sent to {origin}: that need not be its API. Name the API \
         by its application id (api://... or the id alone, and /.default), or by a URL that begins \
         with https://{} or a domain above it", .origin.host()
    )]
    NotThere {
        /// What a token would be asked for.
        scope: String,
        /// Where it would go.
        origin: Origin,
    },
    /// Only the commercial cloud has regions.
    #[error("the cloud {0} has no regions; only {c} has", c = Cloud::Commercial)]
    NoRegions(Cloud),
    /// A cloud's tokens come from its own authority.
    #[error(
        "the cloud {cloud} takes tokens of {expected}, not of {given}{}",
        .others.as_deref().map(|o| format!("; that is the authority of {o}")).unwrap_or_default()
    )]
    OtherAuthority {
        /// The cloud.
        cloud: Cloud,
        /// Its authority.
        expected: Origin,
        /// The one that was named.
        given: String,
        /// The clouds that take tokens of that one, if any does.
        others: Option<String>,
    },
}

fn owner(clouds: &[Cloud]) -> String {
    if clouds.is_empty() {
        return "an API of Microsoft's; name the scope of the API that is there".to_owned();
    }
    let names: Vec<String> = clouds.iter().map(ToString::to_string).collect();
    format!("{}; name that cloud instead", names.join(", "))
}

impl Service {
    /// The commercial cloud.
    ///
    /// # Panics
    ///
    /// Never: its parts are constants, and a test reads them.
    pub fn commercial() -> Self {
        Self::of(Cloud::Commercial, None).unwrap_or_else(|e| unreachable!("constants: {e}"))
    }

    /// A cloud of the table, or a region of it.
    pub fn of(cloud: Cloud, region: Option<Region>) -> Result<Self, ServiceError> {
        let row = TABLE
            .iter()
            .find(|row| row.cloud == cloud && row.region == region)
            .ok_or(ServiceError::NoRegions(cloud))?;
        let scope = format!("{}/.default", row.audiences[0]);
        Self::custom(row.base_url, row.authority, &scope)
    }

    /// Another service, named by all that belongs together.
    ///
    /// Tokens for an API of Microsoft's go to Microsoft: with another origin there is no such
    /// service. Of Entra, which issues them all, a token is asked only for an API that its name says
    /// can be there. Only a stand-in on loopback, with an authority of its own, issues such tokens too.
    pub fn custom(base_url: &str, authority: &str, scope: &str) -> Result<Self, ServiceError> {
        let origin: Origin = base_url.parse().map_err(|problem| ServiceError::BaseUrl {
            text: base_url.to_owned(),
            problem,
        })?;
        let authority: Origin = authority
            .parse()
            .map_err(|problem| ServiceError::Authority {
                text: authority.to_owned(),
                problem,
            })?;
        let resource = scope
            .strip_suffix("/.default")
            .ok_or_else(|| ServiceError::Scope(scope.to_owned()))?;
        let clouds: Vec<Cloud> = TABLE
            .iter()
            .filter(|row| row.region.is_none() && row.has(resource))
            .map(|row| row.cloud)
            .collect();
        let is_stand_in = origin.is_loopback() && !is_entra(&authority);
        if !is_stand_in && !may_go(resource, &origin) {
            return Err(ServiceError::ForeignOrigin {
                scope: scope.to_owned(),
                origin,
                clouds,
            });
        }
        if is_entra(&authority) && !is_known(&origin) && !can_be_at(resource, &origin) {
            return Err(ServiceError::NotThere {
                scope: scope.to_owned(),
                origin,
            });
        }
        Ok(Self {
            origin,
            authority,
            scope: scope.to_owned(),
            cas: Vec::new(),
            network: Network::default(),
        })
    }

    /// Trusts the certificate authorities in this PEM text, besides the system's, where the API is;
    /// at the authority only if that is the same origin.
    #[must_use]
    pub fn with_ca(mut self, pem: Vec<u8>) -> Self {
        self.cas.push((self.origin.clone(), pem));
        self
    }

    /// Trusts the certificate authorities in this PEM text, besides the system's, at the authority;
    /// where the API is only if that is the same origin.
    #[must_use]
    pub fn with_authority_ca(mut self, pem: Vec<u8>) -> Self {
        self.cas.push((self.authority.clone(), pem));
        self
    }

    /// Reaches this service's two origins in this way.
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Whether a host is one of the cloud table's: for those the platform's resolver is trusted,
    /// because their certificates vouch for them and nobody else decides where they lead.
    pub fn is_listed(host: &str) -> bool {
        let is_of = |row: &Row| row.base_url.strip_prefix("https://") == Some(host);
        TABLE.iter().any(is_of) || ENTRA_HOSTS.contains(&host)
    }

    /// Where the API is.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Who issues the tokens.
    pub const fn authority(&self) -> &Origin {
        &self.authority
    }

    /// Refuses an authority that is not this cloud's. The environment of other tools may name one.
    pub fn expect_authority(&self, cloud: Cloud, named: &str) -> Result<(), ServiceError> {
        let given: Option<Origin> = named.parse().ok();
        if given.as_ref() == Some(&self.authority) {
            return Ok(());
        }
        let others: Vec<String> = TABLE
            .iter()
            .filter(|row| row.region.is_none() && row.authority.parse().ok() == given)
            .map(|row| row.cloud.to_string())
            .collect();
        Err(ServiceError::OtherAuthority {
            cloud,
            expected: self.authority.clone(),
            given: named.to_owned(),
            others: (!others.is_empty()).then(|| others.join(", ")),
        })
    }

    /// What a token is asked for.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// How it is reached.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// The certificate authorities to trust at an origin besides the operating system's, as PEM.
    pub fn cas(&self, at: &Origin) -> impl Iterator<Item = &[u8]> {
        self.cas
            .iter()
            .filter(move |(origin, _)| origin == at)
            .map(|(_, pem)| pem.as_slice())
    }

    /// Whether an audience names this service.
    pub(crate) fn is_named_by(&self, audience: &str) -> bool {
        if is_known(&self.origin) {
            return belongs_to(audience, &self.origin);
        }
        let resource = self.scope.strip_suffix("/.default");
        resource.is_some_and(|resource| is_same_resource(audience, resource))
    }

    /// Whether a token for these audiences may be sent to this service, or else the one for which
    /// it may not. A token may be for several, and each of them could use it.
    ///
    /// To a service of one's own goes what is for its scope, and nothing else that says whom it is
    /// for. Loopback does not leave the machine: a stand-in issues tokens of all kinds.
    pub(crate) fn may_receive<'a>(&self, audiences: &'a [String]) -> Result<(), &'a str> {
        let takes = |audience: &str| {
            self.origin.is_loopback()
                || if is_known(&self.origin) {
                    may_go(audience, &self.origin)
                } else {
                    self.is_named_by(audience)
                }
        };
        match audiences.iter().find(|audience| !takes(audience)) {
            Some(audience) => Err(audience),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
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
}
