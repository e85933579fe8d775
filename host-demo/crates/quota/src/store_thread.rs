//! A ledger on a thread of its own: what is asked at one time is decided, and made durable,
//! together.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Ask, Key, LedgerError, LedgerProblem, QuotaStore, Reading, Reply, Update};

/// Requests that are handled together, at most.
const BATCH: usize = 256;

/// How many updates are kept at most until the ledger can be told.
pub(super) const OWED_MAX: usize = 10_000;

/// What a ledger is asked or told.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Ask(Key, Ask),
    Tell(Key, Update),
    Read,
    Reopen,
}

/// What it says.
#[derive(Clone, Debug)]
pub(super) enum Response {
    Reply(Reply),
    Read(Reading),
    Done,
}

/// Something that remembers.
pub(super) trait Store: Send + 'static {
    /// What it is called.
    fn name(&self) -> String;

    /// Handles the requests in their order: all of them, durably, or none.
    fn handle(&mut self, requests: &[Request]) -> Result<Vec<Response>, LedgerError>;
}

/// Makes a ledger of a store. When it is dropped, what it was told before is written down first.
pub(super) struct Worker {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    name: String,
}

struct Order {
    request: Request,
    /// Whoever waits for the answer, and where to undo it.
    answer: Option<(oneshot::Sender<Answer>, Sender<Order>)>,
}

/// An answer on its way. One that does not arrive is undone: nobody will use the slot, or leave the
/// queue.
struct Answer {
    result: Option<Result<Response, LedgerError>>,
    undo: Option<(Key, Sender<Order>)>,
}

impl Answer {
    fn open(mut self) -> Result<Response, LedgerError> {
        self.undo = None;
        match self.result.take() {
            Some(result) => result,
            None => Ok(Response::Done),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let news = match self.result.take() {
            Some(Ok(Response::Reply(Reply::Admitted { slot, .. }))) => Update::Cancelled(slot),
            Some(Ok(Response::Reply(Reply::Wait { ticket, .. }))) => Update::Left(ticket),
            _ => return,
        };
        if let Some((key, orders)) = self.undo.take() {
            let _ = orders.send(Order {
                request: Request::Tell(key, news),
                answer: None,
            });
        }
    }
}

impl Worker {
    pub(super) fn start(store: impl Store) -> Self {
        let (orders, incoming) = mpsc::channel();
        let name = store.name();
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || work(store, &incoming))
            .inspect_err(|error| tracing::error!(%error, "no thread for the ledger"))
            .ok();
        Self {
            orders: Some(orders),
            thread,
            name,
        }
    }

    fn gone(&self) -> LedgerError {
        LedgerError {
            ledger: self.name.clone(),
            problem: LedgerProblem::Unreachable("its thread has ended".to_owned()),
        }
    }

    async fn request(&self, request: Request) -> Result<Response, LedgerError> {
        let gone = || self.gone();
        let (answer, received) = oneshot::channel();
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        let order = Order {
            request,
            answer: Some((answer, orders.clone())),
        };
        orders.send(order).map_err(|_| gone())?;
        received.await.map_err(|_| gone())?.open()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(mut store: impl Store, incoming: &Receiver<Order>) {
    // What it could not be told yet.
    let mut owed: Vec<Request> = Vec::new();
    while let Ok(first) = incoming.recv() {
        let orders = std::iter::once(first).chain(incoming.try_iter());
        let (requests, mut answers): (Vec<Request>, Vec<_>) = orders
            .take(BATCH)
            .map(|order| (order.request, order.answer))
            .unzip();
        let mut all = std::mem::take(&mut owed);
        let before = all.len();
        all.extend(requests);
        let result = store.handle(&all);
        if let Err(error) = &result {
            tracing::error!(%error, "the ledger");
            owed.extend(
                all.iter()
                    .filter(|r| matches!(r, Request::Tell(..)))
                    .cloned(),
            );
            // The oldest go: a slot that is never settled counts.
            owed.drain(..owed.len().saturating_sub(OWED_MAX));
        }
        for (at, answer) in answers.drain(..).enumerate() {
            let Some((answer, orders)) = answer else {
                continue;
            };
            let at = before + at;
            let result = match &result {
                Ok(responses) => Ok(responses.get(at).cloned().unwrap_or(Response::Done)),
                Err(error) => Err(error.clone()),
            };
            let undo = match all.get(at) {
                Some(Request::Ask(key, _)) => Some((key.clone(), orders)),
                _ => None,
            };
            let result = Some(result);
            let _ = answer.send(Answer { result, undo });
        }
    }
    if !owed.is_empty()
        && let Err(error) = store.handle(&owed)
    {
        tracing::error!(%error, "the ledger was not told of the last calls; they count longer");
    }
}

#[async_trait]
impl QuotaStore for Worker {
    async fn ask(&self, key: &Key, ask: Ask) -> Result<Reply, LedgerError> {
        match self.request(Request::Ask(key.clone(), ask)).await? {
            Response::Reply(reply) => Ok(reply),
            Response::Read(_) | Response::Done => Err(self.gone()),
        }
    }

    fn tell(&self, key: &Key, news: Update) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order {
                request: Request::Tell(key.clone(), news),
                answer: None,
            });
        }
    }

    async fn read(&self) -> Result<Reading, LedgerError> {
        match self.request(Request::Read).await? {
            Response::Read(reading) => Ok(reading),
            Response::Reply(_) | Response::Done => Err(self.gone()),
        }
    }

    async fn reopen(&self) -> Result<(), LedgerError> {
        self.request(Request::Reopen).await.map(drop)
    }
}
