//! The request of a release, to be bent, and what became of it.

use wasi::http::outgoing_handler;
use wasi::http::types::{
    Fields, FutureIncomingResponse, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};

use crate::bindings::defender::endpoint::types::{
    ActionStatus, ActionType, MachineAction, Property,
};

pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) scheme: Scheme,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
    comment: Vec<u8>,
}

pub(crate) enum Body {
    None,
    Whole(Vec<u8>),
    /// Half of it is written, and the rest is given up.
    Dropped,
    /// Half of it is written, and the rest is awaited by whoever reads it.
    Held,
    WithTrailers,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<String>,
    response: IncomingResponse,
}

impl Answer {
    /// The body's text.
    fn text(&self) -> String {
        let mut body = Vec::new();
        if let Ok(incoming) = self.response.consume()
            && let Ok(stream) = incoming.stream()
        {
            while let Ok(bytes) = stream.blocking_read(64 * 1024) {
                body.extend(bytes);
            }
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    /// The action in the body, as the stand-in writes it.
    pub(crate) fn read(&self) -> MachineAction {
        action_in(&self.text())
    }

    /// The actions in the body's list, as the stand-in writes them.
    pub(crate) fn read_list(&self) -> Vec<MachineAction> {
        let text = self.text();
        let (_, list) = text.split_once("\"value\":[").unwrap_or_default();
        let entries = list.split("},{").filter(|entry| entry.contains("\"id\""));
        entries.map(action_in).collect()
    }
}

fn action_in(body: &str) -> MachineAction {
    let text = |name: &str| {
        let (_, after) = body.split_once(&format!("\"{name}\":\""))?;
        after.split('"').next().map(str::to_owned)
    };
    let number = |name: &str| {
        let (_, after) = body.split_once(&format!("\"{name}\":"))?;
        after.split([',', '}']).next()?.parse().ok()
    };
    let context = text("@odata.context").map(|context| Property {
        name: "@odata.context".to_owned(),
        json: format!("\"{context}\""),
    });
    MachineAction {
        id: text("id").unwrap_or_default(),
        type_: match text("type").as_deref() {
            Some("RestrictCodeExecution") => ActionType::RestrictCodeExecution,
            _ => ActionType::UnrestrictCodeExecution,
        },
        title: text("title"),
        requestor: text("requestor"),
        requestor_comment: text("requestorComment"),
        status: match text("status").as_deref() {
            Some("Pending") => ActionStatus::Pending,
            _ => ActionStatus::Succeeded,
        },
        machine_id: text("machineId"),
        computer_dns_name: text("computerDnsName"),
        creation_date_time_utc: text("creationDateTimeUtc"),
        last_update_date_time_utc: text("lastUpdateDateTimeUtc"),
        cancellation_requestor: text("cancellationRequestor"),
        cancellation_comment: text("cancellationComment"),
        cancellation_date_time_utc: text("cancellationDateTimeUtc"),
        error_h_result: number("errorHResult"),
        scope: text("scope"),
        external_id: text("externalId"),
        request_source: text("requestSource"),
        related_file_info: None,
        commands: body.contains("\"commands\":[]").then(|| "[]".to_owned()),
        troubleshoot_info: None,
        additional_properties: context.into_iter().collect(),
    }
}

/// A request that was handed over.
pub(crate) struct Started {
    future: FutureIncomingResponse,
    /// Kept, so that a body that is held is not given up.
    _held: Option<OutgoingBody>,
}

/// The body with this comment.
pub(crate) fn body_with(comment: &str) -> Vec<u8> {
    let mut text = String::from("{\"Comment\":\"");
    for c in comment.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\0'..='\x1f' => text.push_str(&format!("\\u{:04x}", c as u32)),
            _ => text.push(c),
        }
    }
    text.push_str("\"}");
    text.into_bytes()
}

impl Request {
    /// As the plugin would send it.
    pub(crate) fn release(base_url: &str, machine: &str, comment: &str) -> Self {
        let (scheme, authority) = base_url.split_once("://").unwrap_or(("", base_url));
        let mut request = Self {
            method: Method::Post,
            scheme: match scheme {
                "https" => Scheme::Https,
                _ => Scheme::Http,
            },
            authority: authority.to_owned(),
            path: format!("/api/machines/{machine}/unrestrictCodeExecution"),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: Body::None,
            comment: body_with(comment),
        };
        request.set_body(request.comment.clone());
        request
    }

    /// A reading one.
    pub(crate) fn get(base_url: &str, path: String) -> Self {
        Self {
            method: Method::Get,
            path,
            headers: Vec::new(),
            body: Body::None,
            ..Self::release(base_url, "", "")
        }
    }

    pub(crate) fn set_body(&mut self, body: Vec<u8>) {
        self.set_header("content-length", &body.len().to_string());
        self.body = Body::Whole(body);
    }

    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn send(&self) -> Result<Answer, String> {
        self.start()?.finish()
    }

    /// Errors name what was refused: a header, a part of the URL, or the request.
    pub(crate) fn start(&self) -> Result<Started, String> {
        let fields = Fields::new();
        for (name, value) in &self.headers {
            let set = fields.append(name, value.as_bytes());
            set.map_err(|e| format!("header {name}: {e:?}"))?;
        }
        let outgoing = OutgoingRequest::new(fields);
        let refused = |part: &'static str| move |()| format!("{part}: refused");
        let set = outgoing.set_method(&self.method);
        set.map_err(refused("method"))?;
        let set = outgoing.set_scheme(Some(&self.scheme));
        set.map_err(refused("scheme"))?;
        let set = outgoing.set_authority(Some(&self.authority));
        set.map_err(refused("authority"))?;
        let set = outgoing.set_path_with_query(Some(&self.path));
        set.map_err(refused("path"))?;

        let body = match &self.body {
            Body::None => None,
            _ => Some(outgoing.body().map_err(refused("body"))?),
        };
        let future = outgoing_handler::handle(outgoing, None).map_err(|e| format!("{e:?}"))?;
        Ok(Started {
            future,
            _held: body.and_then(|body| self.write(body)),
        })
    }

    /// Writes as much as there is to be. What it meets is left out: the answer's future knows more.
    fn write(&self, body: OutgoingBody) -> Option<OutgoingBody> {
        let (bytes, whole) = match &self.body {
            Body::Whole(bytes) => (bytes.as_slice(), true),
            Body::WithTrailers => (self.comment.as_slice(), true),
            Body::None | Body::Dropped | Body::Held => {
                (&self.comment[..self.comment.len() / 2], false)
            }
        };
        if let Ok(stream) = body.write() {
            for chunk in bytes.chunks(4096) {
                if stream.blocking_write_and_flush(chunk).is_err() {
                    break;
                }
            }
        }
        match &self.body {
            Body::Held => return Some(body),
            Body::WithTrailers => {
                let trailers = Fields::new();
                let _ = trailers.append("x-trailer", b"1");
                let _ = OutgoingBody::finish(body, Some(trailers));
            }
            _ if whole => drop(OutgoingBody::finish(body, None)),
            _ => drop(body),
        }
        None
    }
}

impl Started {
    pub(crate) fn finish(self) -> Result<Answer, String> {
        self.future.subscribe().block();
        match self.future.get() {
            Some(Ok(Ok(response))) => Ok(Answer {
                status: response.status(),
                headers: response
                    .headers()
                    .entries()
                    .into_iter()
                    .map(|(name, _)| name)
                    .collect(),
                response,
            }),
            Some(Ok(Err(code))) => Err(format!("{code:?}")),
            other => Err(format!("no answer: {}", other.is_some())),
        }
    }
}
