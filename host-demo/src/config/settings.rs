//! What holds in the end, when the file, the environment and the flags have spoken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{File, KEYS, Key, Source, Value, duration, file};
use crate::cloud::{Cloud, Service, ServiceError};
use crate::host::CALL_TIMEOUT;
use crate::limits::Quota;
use crate::policy::{Origin, Policy, Route};

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<Key, Value>,
    allow: Option<Vec<Route>>,
    quotas: Vec<Quota>,
}

/// What does not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that is not usable.
    #[error("{error} ({key}, from {source_of_it})")]
    Value {
        /// Which.
        key: Key,
        /// Where it came from.
        source_of_it: Source,
        /// What is wrong with it.
        error: String,
    },
    /// A part of a service of one's own is not named.
    #[error(
        "another service needs its {}: {key}, {}",
        match key { Key::Authority => "authority", _ => "scope" },
        key.flag().unwrap_or_default()
    )]
    Incomplete {
        /// The part.
        key: Key,
    },
    /// The service can't be.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl Settings {
    /// Puts together what the file says, what the environment has under the names that it is asked
    /// for, and what the flags say: a later one goes before an earlier one.
    ///
    /// A service and a credential are wholes. Whoever names one replaces all of what an earlier one
    /// says about it: a token is not asked for one service and sent to another.
    pub fn resolve(
        file: File,
        environment: impl Fn(&str) -> Option<String>,
        flags: impl IntoIterator<Item = (Key, String)>,
    ) -> Self {
        let File {
            mut values,
            allow,
            quotas,
        } = file;
        let in_file = values.clone();
        for doc in KEYS {
            let set = doc
                .environment
                .and_then(|name| Some((name, environment(name).filter(|text| !text.is_empty())?)));
            if let Some((name, text)) = set {
                // That a secret is there is all that is kept of it.
                let text = if doc.key.is_secret() {
                    String::new()
                } else {
                    text
                };
                let source = Source::Environment(name);
                values.insert(doc.key, Value { text, source });
            }
        }
        for (key, text) in flags {
            let source = Source::Flag(key.flag().unwrap_or_default());
            values.insert(key, Value { text, source });
        }
        let mut settings = Self {
            values,
            allow,
            quotas: quotas.unwrap_or_else(|| Quota::DOCUMENTED.to_vec()),
        };
        settings.choose_service(&in_file);
        settings.choose_credential();
        settings.fill_in();
        settings
    }

    fn rank(&self, key: Key) -> u8 {
        self.values.get(&key).map_or(0, |value| value.source.rank())
    }

    /// Drops what is of lower rank than this.
    fn drop_below(&mut self, rank: u8, keys: &[Key]) {
        for key in keys {
            if self.rank(*key) < rank {
                self.values.remove(key);
            }
        }
    }

    fn choose_service(&mut self, in_file: &BTreeMap<Key, Value>) {
        use Key::{Authority, AuthorityCaFile, BaseUrl, CaFile, Region, Scope};

        let own = self.rank(BaseUrl);
        let (cloud, region) = (self.rank(Key::Cloud), self.rank(Region));
        if own >= cloud.max(region) && own > 0 {
            self.drop_below(own + 1, &[Key::Cloud, Region]);
            self.drop_below(own, &[Scope, CaFile, AuthorityCaFile]);
            // The environment's authority is for other tools as well: it fills a gap, and does not
            // come between a service and the authority that it was named with.
            if let (true, Some(authority)) = (own == 1, in_file.get(&Authority))
                && self.rank(Authority) == 2
            {
                self.values.insert(Authority, authority.clone());
            }
            if self.rank(Authority) == 1 {
                self.drop_below(own, &[Authority]);
            }
        } else if cloud.max(region) > 0 {
            self.values.remove(&BaseUrl);
            self.values.remove(&Scope);
            if self.rank(Authority) == 1 {
                self.values.remove(&Authority);
            }
            self.drop_below(cloud, &[Region, CaFile, AuthorityCaFile]);
        }
        // Whoever is trusted at one authority is not at the one that takes its place.
        if self.rank(Authority) == 3 {
            self.drop_below(3, &[AuthorityCaFile]);
        }
    }

    fn choose_credential(&mut self) {
        use Key::{CertificateFile, ClientSecret, ClientSecretFile, FederatedTokenFile, TokenFile};

        const CREDENTIALS: [Key; 5] = [
            ClientSecret,
            ClientSecretFile,
            TokenFile,
            CertificateFile,
            FederatedTokenFile,
        ];
        let highest = CREDENTIALS.map(|key| self.rank(key)).into_iter().max();
        let highest = highest.unwrap_or_default();
        // A way to sign in that a later one names keeps what it needs from earlier ones.
        if self.rank(Key::Auth) < highest {
            self.values.remove(&Key::Auth);
            self.drop_below(highest, &CREDENTIALS);
        }
    }

    fn fill_in(&mut self) {
        let mut default = |key, text: String| {
            let source = Source::Default;
            self.values.entry(key).or_insert(Value { text, source });
        };
        let allow = match &self.allow {
            Some(routes) => routes.clone(),
            None => DEFAULT_ROUTES.to_vec(),
        };
        let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
        default(Key::Allow, allow.join(", "));
        default(Key::Quota, file::show(&self.quotas));
        default(Key::Timeout, format!("{}s", CALL_TIMEOUT.as_secs()));
        if !self.values.contains_key(&Key::BaseUrl) {
            let text = Cloud::Commercial.to_string();
            let source = Source::Default;
            self.values
                .entry(Key::Cloud)
                .or_insert(Value { text, source });
        }
    }

    /// A value.
    pub fn get(&self, key: Key) -> Option<&Value> {
        self.values.get(&key)
    }

    /// A value's text.
    pub fn text(&self, key: Key) -> Option<&str> {
        self.get(key).map(|value| value.text.as_str())
    }

    fn parsed<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        parse(&value.text)
            .map(Some)
            .map_err(|error| SettingsError::Value {
                key,
                source_of_it: value.source,
                error,
            })
    }

    /// The service. Who is trusted there is the caller's to add: it is in a file.
    pub fn service(&self) -> Result<Service, SettingsError> {
        if let Some(base_url) = self.text(Key::BaseUrl) {
            let part = |key| self.text(key).ok_or(SettingsError::Incomplete { key });
            let (authority, scope) = (part(Key::Authority)?, part(Key::Scope)?);
            return Ok(Service::custom(base_url, authority, scope)?);
        }
        let named = |text: &str| text.parse::<Cloud>().map_err(|e| e.to_string());
        let cloud = self.parsed(Key::Cloud, named)?;
        let cloud = cloud.unwrap_or(Cloud::Commercial);
        let region = self.parsed(Key::Region, |text| {
            text.parse()
                .map_err(|e: crate::cloud::NoSuchName| e.to_string())
        })?;
        let service = Service::of(cloud, region)?;
        self.parsed(Key::Authority, |authority| {
            service
                .expect_authority(cloud, authority)
                .map_err(|error| error.to_string())
        })?;
        Ok(service)
    }

    /// What may leave, to this origin.
    pub fn policy(&self, origin: Origin) -> Policy {
        let routes = match &self.allow {
            Some(routes) => routes.as_slice(),
            None => &DEFAULT_ROUTES,
        };
        routes
            .iter()
            .fold(Policy::deny_all(origin), |policy, route| {
                policy.allow(*route)
            })
    }

    /// The quotas to keep.
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// How long one call may take.
    pub fn timeout(&self) -> Result<Duration, SettingsError> {
        let timeout = self.parsed(Key::Timeout, duration)?;
        Ok(timeout.unwrap_or(CALL_TIMEOUT))
    }
}

/// What is allowed where nothing is said: to release, and to read.
const DEFAULT_ROUTES: [Route; 2] = [
    crate::grant::Operation::UnrestrictCodeExecution.route(),
    crate::grant::Operation::GetMachineAction.route(),
];
