//! What holds in the end, when the file, the environment and the flags have spoken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{File, KEYS, Key, LIST, Source, TOKEN_FILE, Value, duration, file};
use defender_boundary::CALL_TIMEOUT;
use defender_boundary::policy::{Policy, Route};
use defender_connect::cloud::{self, Cloud, Service, ServiceError};
use defender_connect::identity::Method;
use defender_connect::proxy::{Network, Proxy};
use defender_connect::stray;
use defender_core::origin::Origin;
use defender_quota::Quota;

/// What holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<Key, Value>,
    allow: Option<Vec<Route>>,
    quotas: Vec<Quota>,
    /// Flags that another flag leaves without a meaning.
    dropped: Vec<Key>,
    replaced: Vec<Replaced>,
}

/// The rank of what a flag says.
const FLAG: u8 = 3;

/// Something of the file's that the environment, unseen, takes the place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// What is not used.
    pub key: Key,
    /// Where it stands.
    pub source: Source,
    /// The variable that is used in its place.
    pub by: &'static str,
}

/// What does not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A value that is not usable.
    #[error("{} ({source_of_it})", super::about(&key.to_string(), error))]
    Value {
        /// Which.
        key: Key,
        /// Where it came from.
        source_of_it: Source,
        /// What is wrong with it.
        error: String,
    },
    /// A flag that has no meaning beside another.
    #[error(
        "{} names a part of a service, or of a credential, that another flag replaces as a whole; \
         leave out one of the two",
        .key.flag().unwrap_or_default()
    )]
    Dropped {
        /// What it sets.
        key: Key,
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
}

impl Settings {
    /// Puts together what the file says, what the environment has under the names that it is asked
    /// for, and what the flags say: a later one goes before an earlier one.
    ///
    /// A service and a credential are wholes. Whoever names one replaces all of what an earlier one
    /// says about it: a token is not asked for one service and sent to another.
    pub(crate) fn resolve(
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
            let set = doc.environment.and_then(|name| {
                let text = environment(name)?;
                (!stray::trim(&text).is_empty()).then_some((name, text))
            });
            if let Some((name, text)) = set {
                // That a secret is there is all that is kept of it.
                let text = if doc.key.is_secret() {
                    String::new()
                } else {
                    doc.form.completed(&text)
                };
                let source = Source::Environment(name);
                values.insert(doc.key, Value { text, source });
            }
        }
        let mut given = Vec::new();
        for (key, text) in flags {
            given.push(key);
            let source = Source::Flag(key.flag().unwrap_or_default());
            let text = key.doc().form.completed(&text);
            values.insert(key, Value { text, source });
        }
        let mut settings = Self {
            values,
            allow,
            quotas: quotas.unwrap_or_default(),
            dropped: Vec::new(),
            replaced: Vec::new(),
        };
        settings.keep_documented_quotas();
        settings.choose_service(&in_file);
        settings.choose_credential(&in_file);
        // One proxy's credentials are not another's.
        settings.drop_below(settings.rank(Key::Proxy), &[Key::ProxyCredentialsFile]);
        given.retain(|key| !settings.values.contains_key(key));
        settings.dropped = given;
        settings.fill_in();
        settings
    }

    /// Those that are not implied by a configured one, which is never above them.
    fn keep_documented_quotas(&mut self) {
        let kept = Quota::DOCUMENTED.into_iter().filter(|documented| {
            let implies =
                |quota: &Quota| quota.per >= documented.per && quota.calls <= documented.calls;
            !self.quotas.iter().any(implies)
        });
        let kept: Vec<Quota> = kept.collect();
        self.quotas.extend(kept);
        if let Some(value) = self.values.get_mut(&Key::Quota) {
            value.text = file::show(&self.quotas);
        }
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

    /// A sign-in method that is named is kept: a variable such as `AZURE_CLIENT_SECRET` may be there
    /// for another tool. A method that the file names takes its credential from the file, if it is
    /// there, and else from wherever it is set. Only a flag that names a credential replaces a method
    /// of the file's. Where none is named, the credential of the latest source tells.
    fn choose_credential(&mut self, in_file: &BTreeMap<Key, Value>) {
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
        let method = self.rank(Key::Auth);
        if method == 0 || highest == FLAG && method < FLAG {
            self.note_replaced(&CREDENTIALS);
            self.values.remove(&Key::Auth);
            self.drop_below(highest, &CREDENTIALS);
        } else {
            self.restore_credential(in_file);
            // The two are one credential.
            let secret = [ClientSecret, ClientSecretFile];
            if self.text(Key::Auth) == Some(Method::ClientSecret.name()) {
                self.note_replaced(&secret);
            }
            let highest = secret.map(|key| self.rank(key)).into_iter().max();
            self.drop_below(highest.unwrap_or_default(), &secret);
        }
    }

    /// Puts the file's credential in the place of a variable's, where the file names its method too.
    fn restore_credential(&mut self, in_file: &BTreeMap<Key, Value>) {
        let text = |value: &Value| value.text.clone();
        let Some(method) = self.text(Key::Auth).map(str::to_owned) else {
            return;
        };
        if in_file.get(&Key::Auth).map(text) != Some(method.clone()) {
            return;
        }
        let key = match method.parse() {
            Ok(Method::ClientSecret) => Key::ClientSecretFile,
            Ok(Method::ClientCertificate) => Key::CertificateFile,
            Ok(Method::WorkloadIdentity) => Key::FederatedTokenFile,
            // The others have no variable, or are not one method.
            _ => return,
        };
        let Some(value) = in_file.get(&key).filter(|_| self.rank(key) < FLAG) else {
            return;
        };
        self.values.insert(key, value.clone());
        if key == Key::ClientSecretFile {
            self.values.remove(&Key::ClientSecret);
        }
    }

    /// A flag is there to be seen; a variable may have been set for another tool.
    fn note_replaced(&mut self, credentials: &[Key]) {
        let is_flag = |key: &Key| self.rank(*key) == FLAG;
        if credentials.iter().any(is_flag) {
            return;
        }
        // The first is the one that is used.
        let variable = |key: &Key| match self.get(*key)?.source {
            Source::Environment(name) => Some(name),
            _ => None,
        };
        let Some(by) = credentials.iter().find_map(variable) else {
            return;
        };
        let in_file = credentials.iter().filter(|key| self.rank(**key) == 1);
        self.replaced = in_file
            .filter_map(|key| {
                let source = self.get(*key)?.source;
                Some(Replaced {
                    key: *key,
                    source,
                    by,
                })
            })
            .collect();
    }

    /// What of the file's credential a variable of the environment takes the place of.
    pub(crate) fn replaced(&self) -> &[Replaced] {
        &self.replaced
    }

    /// A flag that names a token file, where another flag names a way to sign in without one.
    fn unused_token_file(&self) -> Option<Key> {
        let is_flag = |key| self.rank(key) == 3;
        let is_unused = is_flag(Key::TokenFile)
            && is_flag(Key::Auth)
            && self.text(Key::Auth) != Some(TOKEN_FILE);
        is_unused.then_some(Key::TokenFile)
    }

    /// Whether a credential would be sent to the authority.
    fn proves_itself(&self) -> bool {
        use Key::{CertificateFile, ClientSecret, ClientSecretFile, FederatedTokenFile};

        let method = self.text(Key::Auth).map(str::parse);
        match method {
            None => [
                ClientSecret,
                ClientSecretFile,
                CertificateFile,
                FederatedTokenFile,
            ]
            .iter()
            .any(|key| self.values.contains_key(key)),
            Some(method) => matches!(
                method,
                Ok(Method::ClientSecret | Method::ClientCertificate | Method::WorkloadIdentity)
            ),
        }
    }

    fn fill_in(&mut self) {
        let mut default = |key, text: String| {
            let source = Source::Default;
            self.values.entry(key).or_insert(Value { text, source });
        };
        let allow = match &self.allow {
            Some(routes) => routes.clone(),
            None => Policy::RELEASE_AND_READ.to_vec(),
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
    pub(crate) fn get(&self, key: Key) -> Option<&Value> {
        self.values.get(&key)
    }

    /// A value's text.
    pub(crate) fn text(&self, key: Key) -> Option<&str> {
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
            .map_err(|error| self.wrong(key, error))
    }

    fn wrong(&self, key: Key, error: impl ToString) -> SettingsError {
        SettingsError::Value {
            key,
            source_of_it: self.get(key).map_or(Source::Default, |value| value.source),
            error: error.to_string(),
        }
    }

    /// All that is wrong, as far as that can be told without files and without the network.
    pub(crate) fn problems(&self) -> Vec<SettingsError> {
        let judge = |(key, value): (&Key, &Value)| {
            let error = key.doc().form.judge(&value.text).err()?;
            Some(self.wrong(*key, error))
        };
        let mut problems: Vec<SettingsError> = self.values.iter().filter_map(judge).collect();
        let dropped = self.dropped.iter().copied().chain(self.unused_token_file());
        problems.extend(dropped.map(|key| SettingsError::Dropped { key }));
        if problems.is_empty() {
            match self.service() {
                Ok(service) => problems.extend(self.not_entras(&service)),
                Err(error) => problems.push(error),
            }
        }
        let authority = self.text(Key::Authority).unwrap_or_default();
        if authority.starts_with("http://") && self.proves_itself() {
            let error = "a credential is sent over https:// only, on loopback too: name the \
                         authority so, or bring a token (token-file, --token-file)";
            problems.push(self.wrong(Key::Authority, error));
        }
        if self.text(Key::Auth) == Some(TOKEN_FILE) && self.get(Key::TokenFile).is_none() {
            let error = "no token file is named: token-file, --token-file";
            problems.push(self.wrong(Key::Auth, error));
        }
        if self.get(Key::ProxyCredentialsFile).is_some() && self.get(Key::Proxy).is_none() {
            let error = "there is no proxy that they are for: proxy, --proxy";
            problems.push(self.wrong(Key::ProxyCredentialsFile, error));
        }
        problems
    }

    /// A client ID that is not a GUID, where Entra is the authority: there it can only be a mistake,
    /// such as a secret in its place.
    fn not_entras(&self, service: &Service) -> Option<SettingsError> {
        let id = self.text(Key::ClientId)?;
        let is_wrong = cloud::is_entra(service.authority()) && !super::is_guid(id);
        is_wrong.then(|| {
            let error = super::not_an_application(id);
            let error = error.replacen(" ID:", " ID (GUID):", 1);
            self.wrong(Key::ClientId, error)
        })
    }

    /// The service. Who is trusted there is the caller's to add: it is in a file.
    pub(crate) fn service(&self) -> Result<Service, SettingsError> {
        if let Some(base_url) = self.text(Key::BaseUrl) {
            let part = |key| self.text(key).ok_or(SettingsError::Incomplete { key });
            let (authority, scope) = (part(Key::Authority)?, part(Key::Scope)?);
            return Service::custom(base_url, authority, scope).map_err(|e| self.impossible(e));
        }
        let named = |text: &str| text.parse::<Cloud>().map_err(|e| e.to_string());
        let cloud = self.parsed(Key::Cloud, named)?;
        let cloud = cloud.unwrap_or(Cloud::Commercial);
        let region = self.parsed(Key::Region, |text| {
            text.parse()
                .map_err(|e: defender_connect::cloud::NoSuchName| e.to_string())
        })?;
        let service = Service::of(cloud, region).map_err(|e| self.impossible(e))?;
        self.parsed(Key::Authority, |authority| {
            service
                .expect_authority(cloud, authority)
                .map_err(|error| error.to_string())
        })?;
        Ok(service)
    }

    fn impossible(&self, error: ServiceError) -> SettingsError {
        let key = match &error {
            ServiceError::BaseUrl { .. } => Key::BaseUrl,
            ServiceError::Authority { .. } | ServiceError::OtherAuthority { .. } => Key::Authority,
            ServiceError::Scope(_)
            | ServiceError::ForeignOrigin { .. }
            | ServiceError::NotThere { .. } => Key::Scope,
            ServiceError::NoRegions(_) => Key::Region,
        };
        self.wrong(key, error)
    }

    /// Which private addresses names may lead to.
    pub(crate) fn network(&self) -> Result<Network, SettingsError> {
        let permitted = |text: &str| {
            let mut networks = text.split(LIST);
            networks
                .try_fold(Network::default(), Network::permitting)
                .map_err(|e| e.to_string())
        };
        let network = self.parsed(Key::AllowAddresses, permitted)?;
        Ok(network.unwrap_or_default())
    }

    /// The proxy to go through, without its credentials.
    pub(crate) fn proxy(&self) -> Result<Option<Proxy>, SettingsError> {
        self.parsed(Key::Proxy, |url| Proxy::new(url).map_err(|e| e.to_string()))
    }

    /// What may leave, to this origin.
    pub(crate) fn policy(&self, origin: Origin) -> Policy {
        let routes = match &self.allow {
            Some(routes) => routes.as_slice(),
            None => &Policy::RELEASE_AND_READ,
        };
        routes
            .iter()
            .fold(Policy::deny_all(origin), |policy, route| {
                policy.allow(*route)
            })
    }

    /// The quotas to keep.
    pub(crate) fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// How long one call may take.
    pub(crate) fn timeout(&self) -> Result<Duration, SettingsError> {
        let timeout = self.parsed(Key::Timeout, duration)?;
        Ok(timeout.unwrap_or(CALL_TIMEOUT))
    }
}
