//! Which token may go where, by whom it is for.

use super::{TABLE, WINDOWS_DEFENDER_ATP, is_known};
use defender_core::origin::Origin;

/// Other names of Entra's endpoints, which issue the same tokens (Microsoft, "National clouds", and
/// the `aliases` of its instance discovery document).
pub(super) const ENTRA_HOSTS: &[&str] = &[
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

/// How the ids of Microsoft's oldest APIs end: Microsoft Graph, the directory, Exchange,
/// SharePoint, Power BI, Dynamics, Rights Management and more. No other application's does.
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
pub(super) fn is_same_resource(one: &str, other: &str) -> bool {
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
/// the tokens: by an application's id, by a name of the tenant's own making, or by a URL there or
/// in a domain above it. The names of Microsoft's APIs are too many for a list.
pub(super) fn can_be_at(resource: &str, origin: &Origin) -> bool {
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

/// Whether a token of this audience is one that this origin takes, as far as the table knows.
pub fn belongs_to(audience: &str, origin: &Origin) -> bool {
    TABLE
        .iter()
        .any(|row| row.is_at(origin) && row.has(audience))
}

/// Whether tokens of this audience may go to this origin, as far as the audience alone says: one
/// that is for a cloud of the table goes to that cloud, and one for another API of Microsoft's to
/// none but Microsoft's.
pub(super) fn may_go(audience: &str, origin: &Origin) -> bool {
    if TABLE.iter().any(|row| row.has(audience)) {
        belongs_to(audience, origin)
    } else {
        is_known(origin) || !is_microsofts(audience)
    }
}

/// Whether tokens of this authority are Entra's, in whichever of its clouds. Its regions have names
/// of their own, below these, and a dot at the end makes no other name.
pub fn is_entra(authority: &Origin) -> bool {
    let host = authority.host().trim_end_matches('.');
    ENTRA_HOSTS.iter().any(|entra| is_within(host, entra))
}
