//! The usual ways to a credential, one after another.

use std::sync::OnceLock;

use async_trait::async_trait;

use super::fetch::{Fetch, Fetched};
use super::{Credential, IdentityError, Method, Principal};

/// How a token could be had, or why it can't.
pub(super) type Link = Result<Box<dyn Fetch>, String>;

/// The first of several that is there. What is there and fails ends the search: whoever set it up
/// would not expect to act as somebody else because of that.
pub(super) struct Chain {
    links: Vec<(Method, Link)>,
    chosen: OnceLock<usize>,
}

impl Chain {
    pub(super) const fn new(links: Vec<(Method, Link)>) -> Self {
        Self {
            links,
            chosen: OnceLock::new(),
        }
    }

    fn chosen(&self) -> Option<&dyn Fetch> {
        let (_, link) = self.links.get(*self.chosen.get()?)?;
        link.as_deref().ok()
    }
}

#[async_trait]
impl Fetch for Chain {
    async fn fetch(&self) -> Result<Fetched, IdentityError> {
        if let Some(chosen) = self.chosen() {
            return chosen.fetch().await;
        }
        let mut tried = Vec::new();
        for (index, (method, link)) in self.links.iter().enumerate() {
            let why = match link {
                Err(why) => why.clone(),
                Ok(link) => match link.fetch().await {
                    Ok(fetched) => {
                        tracing::debug!(%method, "credential found");
                        let _ = self.chosen.set(index);
                        return Ok(fetched);
                    }
                    Err(IdentityError::NotAvailable { why, .. }) => why,
                    Err(error) => return Err(error),
                },
            };
            tracing::debug!(%method, why, "no such credential");
            tried.push((*method, why));
        }
        Err(IdentityError::NoneAvailable(tried))
    }

    fn principal(&self) -> Option<Principal> {
        self.chosen()?.principal()
    }

    /// Until a link is chosen, that of the first that is set up: it is the one that is tried first.
    async fn credential(&self) -> Option<Credential> {
        let first = || self.links.iter().find_map(|(_, link)| link.as_deref().ok());
        self.chosen().or_else(first)?.credential().await
    }
}
