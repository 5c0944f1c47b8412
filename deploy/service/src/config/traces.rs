//! The collector of traces.

use axum::http::Uri;
use axum::http::header::{HeaderName, HeaderValue};
use clap::Args;

use super::untrimmed_secret;
use crate::env::{self, ConfigError, Env};
use crate::secret::Secret;
use crate::trace_export::TraceSettings;

/// Where traces go. The names are OpenTelemetry's own.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Traces")]
pub struct TraceVariables {
    /// A collector of OpenTelemetry that takes OTLP over HTTP, such as `http://127.0.0.1:4318`: spans are posted to `/v1/traces` below it; without it
    /// none are recorded
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = endpoint)]
    pub otel_exporter_otlp_endpoint: Option<Uri>,
    /// Headers of each call, such as `authorization=Bearer%20TOKEN`, with commas between
    #[arg(env = "OTEL_EXPORTER_OTLP_HEADERS", value_parser = untrimmed_secret)]
    pub otel_exporter_otlp_headers: Option<Secret>,
    /// Of requests that neither fail nor are slow, the share that is recorded, from 0 to 1, by trace id. What failed or was slow always is
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "0.01", value_parser = share)]
    pub otel_traces_sampler_arg: f64,
}

fn endpoint(text: &str) -> Result<Uri, String> {
    let wrong = || "must be the URL of a collector, such as http://127.0.0.1:4318".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        _ if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            Err("names a user: say OTEL_EXPORTER_OTLP_HEADERS instead".to_owned())
        }
        Some("http" | "https") if uri.query().is_none() => Ok(uri),
        _ => Err(wrong()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.trim().parse().map_err(|_| format!("`{text}` is no number from 0 to 1"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not within 0 to 1")) }
}

/// The collector of traces, if there is one.
pub fn traces(env: &dyn Env) -> Result<Option<TraceSettings>, ConfigError> {
    let variables: TraceVariables = env::read(env)?;
    let headers = variables.otel_exporter_otlp_headers.as_ref().map(|text| headers(text.expose())).transpose();
    let headers = headers.map_err(|problem| ConfigError::new("OTEL_EXPORTER_OTLP_HEADERS", problem))?;
    let settings = |endpoint| TraceSettings {
        endpoint,
        headers: headers.unwrap_or_default(),
        share: variables.otel_traces_sampler_arg,
    };
    Ok(variables.otel_exporter_otlp_endpoint.map(settings))
}

/// Pairs as W3C's baggage writes them: values are percent-encoded. Errors tell nothing of the text.
fn headers(text: &str) -> Result<Vec<(HeaderName, Secret)>, &'static str> {
    let wrong = "must be pairs NAME=VALUE with commas between, values percent-encoded";
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong)?;
        let value = decoded(value.trim()).ok_or(wrong)?;
        HeaderValue::from_str(&value).map_err(|_| wrong)?;
        Ok((name, Secret::new(value)))
    };
    pairs.map(header).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let env: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        traces(&env).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_sent_unless_a_collector_is_named() {
        assert!(read(&[]).unwrap().is_none() && read(&[("OTEL_TRACES_SAMPLER_ARG", "1")]).unwrap().is_none());
        let settings = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318/base/")]).unwrap().unwrap();
        assert_eq!((settings.endpoint.path(), settings.share), ("/base/", 0.01));
        for wrong in ["collector:4318", "grpc://collector", "http://c/?a=b", "http://me:secret@c"] {
            let error = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)]).unwrap_err();
            assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT:") && !error.contains("secret"), "{error}");
        }
        for wrong in ["2", "-0.1", "NaN", "all"] {
            assert!(read(&[("OTEL_TRACES_SAMPLER_ARG", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_decoded_and_never_printed() {
        let with = |headers: &str| {
            read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_EXPORTER_OTLP_HEADERS", headers)])
        };
        let settings = with("authorization=Bearer%20t%2C1, x-scope = a").unwrap().unwrap();
        let headers: Vec<_> =
            settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose().to_owned())).collect();
        assert_eq!(headers, [("authorization", "Bearer t,1".to_owned()), ("x-scope", "a".to_owned())]);
        assert!(!format!("{settings:?}").contains("Bearer"));
        for wrong in ["hunter2", "a b=hunter2", "a=hunter2%0A", "a=hunter2%2"] {
            let error = with(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
