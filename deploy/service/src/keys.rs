//! Where a request presents its key.

use axum::http::HeaderMap;

/// The key in `X-API-Key` or `Authorization: Bearer`; `None` when neither is there or is text.
pub fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok().map(str::trim);
    }
    let (scheme, key) = headers.get(axum::http::header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn both_headers_are_read() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))])
        };
        assert_eq!(presented(&with("x-api-key", "k")), Some("k"));
        assert_eq!(presented(&with("authorization", "bearer k")), Some("k"));
        assert_eq!(presented(&with("authorization", "Basic k")), None);
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
