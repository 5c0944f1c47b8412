//! Backups in a bucket of S3, or of what speaks like it. The embedded ClickHouse connects to nobody, so files go through here.
//!
//! `rusty-s3` makes and signs the requests, our own client sends them: no SDK with its runtime. A file larger than [`PART`] goes up in parts, and
//! comes down in ranges, so that no more than that of it is in memory. What failed in passing is tried again.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ETAG, HeaderMap, HeaderValue, RANGE};
use hyper::{Method, StatusCode};
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use sha2::{Digest, Sha256};
use tallyhouse_service::http_client::{Endpoint, HttpError, Reply};
use tallyhouse_service::retry;
use tallyhouse_sql::hex;

use super::{BackupError, files};
use crate::config::BucketAccess;

/// Bytes that are in memory at once, of each file under way. Of the largest file it becomes more: a bucket takes 10,000 parts.
const PART: u64 = 16 << 20;
const MOST_PARTS: u64 = 9_000;

/// One request, with its body.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// How long a signature is good.
const SIGNED_FOR: Duration = Duration::from_secs(600);

const ATTEMPTS: u32 = 5;

/// A bucket, or what is below a prefix in it.
#[derive(Debug)]
pub struct S3 {
    bucket: Bucket,
    credentials: Option<Credentials>,
    /// Ends with `/` unless it is empty.
    prefix: String,
    http: Endpoint,
}

impl S3 {
    /// A target such as `s3://bucket/prefix`. Speaks to nobody yet.
    pub fn new(target: &str, access: &BucketAccess) -> Result<Self, BackupError> {
        let bad = |problem: String| BackupError::S3 { what: target.to_owned(), problem };
        let rest = target.strip_prefix("s3://").unwrap_or(target);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let amazon = || (format!("https://s3.{}.amazonaws.com", access.region), UrlStyle::VirtualHost);
        let (endpoint, style) = access.endpoint.clone().map_or_else(amazon, |endpoint| (endpoint, UrlStyle::Path));
        let url = endpoint.parse().map_err(|_| bad(format!("BACKUP_S3_ENDPOINT: `{endpoint}` is no URL")))?;
        let bucket = Bucket::new(url, style, bucket.to_owned(), access.region.clone());
        let bucket = bucket.map_err(|error| bad(error.to_string()))?;
        let credentials = match (&access.key_id, &access.secret) {
            (Some(id), Some(secret)) => Some(Credentials::new(id, secret.expose())),
            (None, None) => None,
            _ => return Err(bad("BACKUP_S3_KEY_ID and BACKUP_S3_SECRET go together".to_owned())),
        };
        let http = Endpoint::new(bucket.base_url().as_str(), ANSWER_WITHIN).map_err(|error| bad(error.to_string()))?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket, credentials, prefix, http })
    }

    fn key(&self, inner: &str) -> String {
        format!("{}{inner}", self.prefix)
    }

    /// Sends a request until it is answered by something that stays: 2xx, or a refusal.
    async fn send(
        &self,
        what: &str,
        method: Method,
        url: impl Fn() -> url::Url,
        sent: Sent,
    ) -> Result<Reply, BackupError> {
        let mut attempt = 1;
        loop {
            let url = url();
            let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
            let reply = self.http.send_with(method.clone(), &path, sent.headers.clone(), sent.body.clone()).await;
            let problem = match reply {
                Ok(reply) if !reply.status.is_server_error() && reply.status != StatusCode::TOO_MANY_REQUESTS => {
                    return Ok(reply);
                }
                Ok(reply) => format!("{}: {}", reply.status, reply.excerpt()),
                Err(error @ (HttpError::Malformed(_) | HttpError::Tls(_))) => {
                    return Err(failed(what, error.to_string()));
                }
                Err(error) => error.to_string(),
            };
            if attempt >= ATTEMPTS {
                return Err(failed(what, problem));
            }
            tokio::time::sleep(retry::WRITE.pause(attempt)).await;
            attempt += 1;
        }
    }

    /// As [`S3::send`], and anything but 2xx is an error.
    async fn done(
        &self,
        what: &str,
        method: Method,
        url: impl Fn() -> url::Url,
        sent: Sent,
    ) -> Result<Reply, BackupError> {
        let reply = self.send(what, method, url, sent).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        Err(failed(what, format!("{}: {}", reply.status, reply.excerpt())))
    }

    /// Whether the bucket is there, and ours.
    pub async fn check(&self) -> Result<(), BackupError> {
        self.page("", Some(1), None).await.map(drop)
    }

    async fn page(
        &self,
        inner: &str,
        most: Option<usize>,
        token: Option<&str>,
    ) -> Result<rusty_s3::actions::ListObjectsV2Response, BackupError> {
        let prefix = self.key(inner);
        let url = || {
            let mut list = self.bucket.list_objects_v2(self.credentials.as_ref());
            list.with_prefix(prefix.as_str());
            if let Some(most) = most {
                list.with_max_keys(most);
            }
            if let Some(token) = token {
                list.with_continuation_token(token);
            }
            list.sign(SIGNED_FOR)
        };
        let what = format!("s3://{}", self.bucket.name());
        let reply = self.done(&what, Method::GET, url, Sent::default()).await?;
        let text = String::from_utf8_lossy(&reply.body);
        ListObjectsV2::parse_response(&text).map_err(|error| failed(&what, error.to_string()))
    }

    /// All files below a folder, without the prefix.
    pub async fn list(&self, inner: &str) -> Result<Vec<String>, BackupError> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let page = self.page(inner, None, token.as_deref()).await?;
            let keys = page.contents.into_iter().map(|object| object.key);
            found.extend(keys.filter_map(|key| key.strip_prefix(&self.prefix).map(str::to_owned)));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    /// Brings a file there.
    pub async fn put(&self, from: &Path, inner: &str) -> Result<(), BackupError> {
        let mut file = File::open(from).map_err(BackupError::file(from))?;
        let bytes = file.metadata().map_err(BackupError::file(from))?.len();
        let key = self.key(inner);
        if bytes <= PART {
            let body = read(&mut file, bytes, from)?;
            let url = || self.bucket.put_object(self.credentials.as_ref(), &key).sign(SIGNED_FOR);
            return self.done(inner, Method::PUT, url, Sent::body(body)).await.map(drop);
        }
        let url = || self.bucket.create_multipart_upload(self.credentials.as_ref(), &key).sign(SIGNED_FOR);
        let reply = self.done(inner, Method::POST, url, Sent::default()).await?;
        let begun = CreateMultipartUpload::parse_response(&String::from_utf8_lossy(&reply.body));
        let begun = begun.map_err(|error| failed(inner, error.to_string()))?;
        let put = self.put_parts(&mut file, bytes, from, &key, begun.upload_id()).await;
        if put.is_err() {
            // What is up is paid for until then.
            let url = || {
                self.bucket.abort_multipart_upload(self.credentials.as_ref(), &key, begun.upload_id()).sign(SIGNED_FOR)
            };
            drop(self.done(inner, Method::DELETE, url, Sent::default()).await);
        }
        put
    }

    async fn put_parts(
        &self,
        file: &mut File,
        bytes: u64,
        from: &Path,
        key: &str,
        upload: &str,
    ) -> Result<(), BackupError> {
        let part = PART.max(bytes.div_ceil(MOST_PARTS));
        let (mut etags, mut left, mut number) = (Vec::new(), bytes, 0_u16);
        while left > 0 {
            let body = read(file, part.min(left), from)?;
            left = left.saturating_sub(body.len() as u64);
            number += 1;
            let url = || self.bucket.upload_part(self.credentials.as_ref(), key, number, upload).sign(SIGNED_FOR);
            let reply = self.done(key, Method::PUT, url, Sent::body(body)).await?;
            let etag = reply.headers.get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
            etags.push(etag.ok_or_else(|| failed(key, "a part has no ETag".to_owned()))?);
        }
        let complete = || {
            let etags = etags.iter().map(String::as_str);
            self.bucket.complete_multipart_upload(self.credentials.as_ref(), key, upload, etags)
        };
        let body = Bytes::from(complete().body());
        let reply = self.done(key, Method::POST, || complete().sign(SIGNED_FOR), Sent::body(body)).await?;
        // It may answer 200 and say then that it failed.
        match reply.excerpt().contains("<Error>") {
            true => Err(failed(key, reply.excerpt())),
            false => Ok(()),
        }
    }

    /// A small file whole; `None`: it is not there.
    pub async fn read(&self, inner: &str) -> Result<Option<Bytes>, BackupError> {
        let mut whole = Vec::new();
        let take = |bytes: &[u8]| {
            whole.extend_from_slice(bytes);
            Ok(())
        };
        Ok(self.stream(inner, take).await?.then(|| whole.into()))
    }

    /// Gives all bytes of a file to `take`, in order; `false`: it is not there.
    async fn stream(
        &self,
        inner: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<bool, BackupError> {
        let mut at = 0_u64;
        loop {
            let range = HeaderValue::try_from(format!("bytes={at}-{}", at + PART - 1));
            let range = range.map_err(|error| failed(inner, error.to_string()))?;
            let key = self.key(inner);
            let url = || self.bucket.get_object(self.credentials.as_ref(), &key).sign(SIGNED_FOR);
            let headers = HeaderMap::from_iter([(RANGE, range)]);
            let reply = self.send(inner, Method::GET, url, Sent { headers, body: Bytes::new() }).await?;
            match reply.status {
                StatusCode::NOT_FOUND => return Ok(false),
                // Nothing from there on: an empty file, or one whose length is a multiple of a part.
                StatusCode::RANGE_NOT_SATISFIABLE => return Ok(true),
                // Without ranges: that was all.
                StatusCode::OK => return take(&reply.body).map(|()| true),
                StatusCode::PARTIAL_CONTENT => take(&reply.body)?,
                status => return Err(failed(inner, format!("{status}: {}", reply.excerpt()))),
            }
            at += reply.body.len() as u64;
            if (reply.body.len() as u64) < PART {
                return Ok(true);
            }
        }
    }

    /// Brings a file here.
    pub async fn fetch(&self, inner: &str, to: &Path) -> Result<(), BackupError> {
        let mut file = files::create(to)?;
        let is_there = self.stream(inner, |bytes| file.write_all(bytes).map_err(BackupError::file(to))).await?;
        if !is_there {
            return Err(failed(inner, "it is not there".to_owned()));
        }
        file.sync_all().map_err(BackupError::file(to))
    }

    /// Length and checksum of a file; `None`: it is not there.
    pub async fn sum(&self, inner: &str) -> Result<Option<(u64, String)>, BackupError> {
        let (mut hasher, mut length) = (Sha256::new(), 0_u64);
        let take = |bytes: &[u8]| {
            hasher.update(bytes);
            length += bytes.len() as u64;
            Ok(())
        };
        let is_there = self.stream(inner, take).await?;
        Ok(is_there.then(|| (length, hex(&hasher.finalize()))))
    }

    /// Removes files; those that are not there are none.
    pub async fn remove(&self, inner: &str) -> Result<(), BackupError> {
        let key = self.key(inner);
        let url = || self.bucket.delete_object(self.credentials.as_ref(), &key).sign(SIGNED_FOR);
        self.done(inner, Method::DELETE, url, Sent::default()).await.map(drop)
    }

    /// The bucket and the prefix, for people.
    pub fn name(&self) -> String {
        format!("s3://{}/{}", self.bucket.name(), self.prefix)
    }
}

/// What goes with a request.
#[derive(Default)]
struct Sent {
    headers: HeaderMap,
    body: Bytes,
}

impl Sent {
    fn body(body: Bytes) -> Self {
        Self { headers: HeaderMap::new(), body }
    }
}

fn failed(what: &str, problem: String) -> BackupError {
    BackupError::S3 { what: what.to_owned(), problem }
}

fn read(file: &mut File, bytes: u64, path: &Path) -> Result<Bytes, BackupError> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    file.read_exact(&mut buffer).map_err(BackupError::file(path))?;
    Ok(buffer.into())
}
