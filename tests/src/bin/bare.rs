//! One token and one release by `reqwest` alone, beside which the benchmark runs the whole command.
//!
//! `BASE_URL`, `SCOPE`, `CA_FILE` and `MACHINE_ID` say what, and `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
//! `AZURE_CLIENT_SECRET` who.

use std::env::var;

use tests::bare::{self, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = bare::client(&std::fs::read(var("CA_FILE")?)?)?;
    let base_url = var("BASE_URL")?;
    let fields = [
        ("grant_type", "client_credentials"),
        ("client_id", &var("AZURE_CLIENT_ID")?),
        ("client_secret", &var("AZURE_CLIENT_SECRET")?),
        ("scope", &var("SCOPE")?),
    ];
    let token = bare::token(&client, &base_url, &var("AZURE_TENANT_ID")?, &fields).await?;
    let action = bare::release(&client, &base_url, &token, &var("MACHINE_ID")?).await?;
    println!("{action}");
    Ok(())
}
