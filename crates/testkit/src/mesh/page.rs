// SPDX-License-Identifier: Apache-2.0
//! What the PHP page says.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::client::Response;

/// One answer of `index.php`.
#[derive(Debug, Clone)]
pub struct Page {
    /// The page's own status: 200 if every call succeeded, 502 otherwise.
    pub status: u16,
    /// How long the page took by its own clock.
    pub time: Duration,
    /// What it asked, in order.
    pub calls: Vec<Call>,
}

/// One call that the page made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The service it asked.
    pub service: String,
    /// The status it got; 0 if none.
    pub status: u64,
    /// The version that answered.
    pub version: Option<String>,
    /// The instance that answered.
    pub instance: Option<String>,
    /// How long it took, name look-up and connect included.
    pub time: Duration,
    /// curl's words if there was no answer.
    pub error: Option<String>,
    /// All of it.
    pub raw: Value,
}

impl Page {
    /// Reads an answer of `index.php`.
    pub fn read(response: &Response) -> anyhow::Result<Self> {
        let shown = || format!("the page said {}: {}", response.status, response.text());
        let value: Value = serde_json::from_slice(&response.body).with_context(shown)?;
        let calls = value["calls"].as_array().with_context(shown)?;
        let time = milliseconds(&value["ms"]).with_context(shown)?;
        let calls = calls
            .iter()
            .map(|call| Call::read(call).with_context(shown));
        Ok(Self {
            status: response.status,
            time,
            calls: calls.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether every call succeeded.
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// The call to a service.
    pub fn call(&self, service: &str) -> Option<&Call> {
        self.calls.iter().find(|call| call.service == service)
    }
}

impl Call {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            service: text("service")?,
            status: value["status"].as_u64()?,
            version: text("version"),
            instance: text("instance"),
            time: milliseconds(&value["ms"])?,
            error: text("error"),
            raw: value.clone(),
        })
    }
}

fn milliseconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()? / 1000.0).ok()
}
