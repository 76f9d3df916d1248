// SPDX-License-Identifier: Apache-2.0
//! `remora status`: asks a control plane's status page, and shows what it says.
//!
//! `page` is the form of what it says; `view` makes text of it.

mod page;
mod view;

use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cli::StatusArgs;
use crate::output;
use page::Page;

/// Prints the status.
pub(crate) async fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let address = authority(&args.address);
    let asked = tokio::time::timeout(PATIENCE, fetch(address)).await;
    let body = match asked {
        Ok(fetched) => fetched?,
        Err(_) => bail!("control plane at {address}: no answer within {PATIENCE:?}"),
    };
    if args.json {
        return output::print(&format!("{}\n", body.trim_end()));
    }
    let page: Page = serde_json::from_str(&body)
        .with_context(|| format!("the answer of {address} is not that of a control plane"))?;
    output::print(&view::render(&page, address))
}

/// `HOST:PORT` of an address that may be written as a URL.
fn authority(address: &str) -> &str {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

async fn fetch(address: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address).await.with_context(|| {
        format!(
            "control plane at {address} cannot be reached (is `remora control-plane` running \
             there, with `--status {address}`? the page is served on loopback unless told otherwise)"
        )
    })?;
    let asking = || format!("ask {address} for /status");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .with_context(asking)?;
    let request = Request::get("/status")
        .header(HOST, address)
        .body(Empty::<Bytes>::new())
        .with_context(asking)?;
    let exchange = async {
        let response = sender.send_request(request).await.with_context(asking)?;
        let status = response.status();
        if status != StatusCode::OK {
            bail!("{address} answers /status with {status}: is it a control plane's status page?");
        }
        let body = Limited::new(response.into_body(), MAX_PAGE).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!(error))
            .with_context(asking)?;
        String::from_utf8(body.to_bytes().into()).with_context(asking)
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // The connection may end first, with the whole answer already received.
        ended = connection => {
            ended.with_context(asking)?;
            exchange.await
        }
    }
}

/// How long the answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest page that is read: above ten thousand proxies.
const MAX_PAGE: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_url() {
        let table = [
            ("127.0.0.1:15014", "127.0.0.1:15014"),
            ("http://[::1]:15014/status", "[::1]:15014"),
            ("http://plane:1/", "plane:1"),
            ("", ""),
        ];
        for (written, expected) in table {
            assert_eq!(authority(written), expected);
        }
    }
}
