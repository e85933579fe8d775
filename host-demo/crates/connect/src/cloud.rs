//! Which service: its origin, who issues tokens for it, and what a token is asked for.
//!
//! The clouds that Microsoft runs are a table. A token that is issued for a row goes to the row's
//! origins and to no others, and one for another API of Microsoft's to none but Microsoft's:
//! [`Service`] can't be made otherwise, and the boundary looks once more at what a token itself
//! says before it sends it (`Service::may_receive`).

mod audience;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use crate::proxy::Network;
use defender_core::origin::{Origin, OriginError};

pub use audience::belongs_to;
pub use audience::is_entra;

use audience::{ENTRA_HOSTS, can_be_at, is_same_resource, may_go};

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
    /// service. Of Entra, which issues them all, a token is asked only for an API that its name
    /// says can be there. Only a stand-in on loopback, with an authority of its own, issues such
    /// tokens too.
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
    pub fn is_named_by(&self, audience: &str) -> bool {
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
    pub fn may_receive<'a>(&self, audiences: &'a [String]) -> Result<(), &'a str> {
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
