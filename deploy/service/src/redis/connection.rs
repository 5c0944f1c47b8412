//! A connection from the pool, to be used for a command or a pipeline.

use deadpool::managed::Object;
use futures_util::future::try_join_all;
use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, ServerErrorKind, Value};

use super::pool::{Opened, Opener};

/// Goes back to the pool when it is dropped, unless it is of no more use.
pub struct Connection {
    object: Option<Object<Opener>>,
    is_broken: bool,
}

impl Connection {
    pub(super) fn new(object: Object<Opener>) -> Self {
        Self { object: Some(object), is_broken: false }
    }

    fn opened(&mut self) -> Result<&mut Opened, RedisError> {
        let gone = || RedisError::from(std::io::Error::from(std::io::ErrorKind::NotConnected));
        self.object.as_deref_mut().ok_or_else(gone)
    }

    /// A server that takes no writes became a replica: the next connection is to the master. That of a cluster follows redirections by
    /// itself, but for those that abort a transaction: it would be sent to the same node again.
    fn note(&mut self, error: &RedisError) {
        use ServerErrorKind::{ExecAbort, Moved, ReadOnly};
        let kind = error.kind();
        self.is_broken |= match self.object.as_deref() {
            Some(Opened::Cluster(_)) => matches!(kind, ErrorKind::Server(ExecAbort | Moved | ReadOnly)),
            Some(Opened::Server(_)) | None => {
                kind == ErrorKind::Server(ReadOnly) || error.is_connection_dropped() || error.is_io_error()
            }
        };
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(object) = self.object.take().filter(|_| self.is_broken) {
            drop(Object::take(object));
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let sent = match self.opened()? {
                Opened::Server(connection) => connection.req_packed_command(command).await,
                Opened::Cluster(connection) => connection.req_packed_command(command).await,
            };
            sent.inspect_err(|error| self.note(error))
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let sent = match self.opened()? {
                Opened::Server(connection) => connection.req_packed_commands(pipeline, offset, count).await,
                Opened::Cluster(connection) => match connection.req_packed_commands(pipeline, offset, count).await {
                    Err(error) if is_of_several_slots(&error) && !pipeline.is_transaction() => {
                        one_by_one(connection, pipeline).await
                    }
                    sent => sent,
                },
            };
            let values = sent.inspect_err(|error| self.note(error))?;
            if let Some(Value::ServerError(error)) = values.iter().find(|value| matches!(value, Value::ServerError(_)))
            {
                self.note(&error.clone().into());
            }
            Ok(values)
        })
    }

    fn get_db(&self) -> i64 {
        match self.object.as_deref() {
            Some(Opened::Server(connection)) => connection.get_db(),
            Some(Opened::Cluster(_)) | None => 0,
        }
    }
}

fn is_of_several_slots(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot)
}

/// All at once, each to the node that has its key.
async fn one_by_one(connection: &ClusterConnection, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
    let send = |command: &Cmd| {
        let (mut connection, command) = (connection.clone(), command.clone());
        async move { connection.req_packed_command(&command).await }
    };
    try_join_all(pipeline.cmd_iter().map(send)).await
}
