//! A host that hands its token to the guest and sends whatever the guest wants: the least that runs
//! the plugin.

use host_demo::contract::connection::{self, Access, Authorization, Operation, Refusal};
use host_demo::contract::{self, MachineAction, Plugin};
use host_demo::egress::add_wasi_to_linker;
use host_demo::plugin::BUNDLED;
use http_body_util::BodyExt as _;
use wasmtime::component::{Component, HasSelf, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::bare;

/// Where to, and with what.
#[derive(Clone)]
pub struct Service {
    /// An origin.
    pub base_url: String,
    /// What the guest sends as its bearer token.
    pub token: String,
}

/// Releases a machine with the bundled plugin.
///
/// # Panics
///
/// When the plugin traps.
pub async fn release(
    engine: &Engine,
    service: Service,
    machine: &str,
    comment: &str,
) -> Result<MachineAction, contract::Error> {
    let (mut store, plugin) = instance(engine, service).await;
    let release = plugin.defender_endpoint_code_execution();
    let result = release.call_unrestrict_code_execution(&mut store, machine, comment);
    result.await.expect("no trap")
}

/// What one instance says to each call in turn with an argument that is no id: nothing is sent.
///
/// # Panics
///
/// When the plugin traps.
pub async fn refusals(engine: &Engine, service: Service) -> Vec<String> {
    let (mut store, plugin) = instance(engine, service).await;
    let store = &mut store;
    let release = plugin.defender_endpoint_code_execution();
    let actions = plugin.defender_endpoint_machine_actions();
    let restriction = plugin.defender_endpoint_restriction();
    let results = [
        actions.call_get_machine_action(&mut *store, "x").await,
        release
            .call_unrestrict_code_execution(&mut *store, "x", "y")
            .await,
        actions
            .call_cancel_machine_action(&mut *store, "x", "y")
            .await,
        release
            .call_unrestrict_code_execution(&mut *store, "x", "y")
            .await,
        restriction
            .call_restrict_code_execution(&mut *store, "x", "y")
            .await,
        actions.call_get_machine_action(&mut *store, "x").await,
    ];
    let message = |result: wasmtime::Result<Result<MachineAction, contract::Error>>| {
        let refused = result.expect("no trap").map(drop);
        refused.expect_err("no id is no success").message
    };
    results.into_iter().map(message).collect()
}

async fn instance(engine: &Engine, service: Service) -> (Store<State>, Plugin) {
    let mut linker = Linker::new(engine);
    connection::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)
        .expect("the plugin is linked");
    add_wasi_to_linker(&mut linker).expect("the plugin is linked");

    let state = State {
        table: ResourceTable::new(),
        http: WasiHttpCtx::new(),
        hooks: Direct,
        service,
    };
    let mut store = Store::new(engine, state);
    store.set_fuel(u64::MAX).expect("the plugin is linked");
    let component = Component::new(engine, BUNDLED).expect("the plugin is linked");
    let plugin = Plugin::instantiate_async(&mut store, &component, &linker);
    let plugin = plugin.await.expect("the plugin is linked");
    (store, plugin)
}

struct State {
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: Direct,
    service: Service,
}

impl connection::Host for State {
    fn open(&mut self, _: Operation, _: Option<String>) -> Result<Access, Refusal> {
        let Service { base_url, token } = self.service.clone();
        Ok(Access {
            base_url,
            authorization: Authorization::Bearer(token),
        })
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

struct Direct;

type Connection = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Direct {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Connection,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Connection), Error>> + Send>
    {
        Box::new(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let broken = |_| Error::ConnectionTerminated;
            let request = http::Request::from_parts(head, body).try_into();
            let client = bare::client(b"").map_err(|_| Error::ConfigurationError)?;
            let answer = client
                .execute(request.map_err(broken)?)
                .await
                .map_err(broken)?;
            let answer = http::Response::<reqwest::Body>::from(answer)
                .map(|body| body.map_err(broken).boxed_unsync());
            Ok((answer, Box::new(std::future::ready(Ok(()))) as Connection))
        })
    }
}
