//! Commands with types: those that services need most. All others by [`Client::call`].

use std::time::Duration;

use framework::pdpix::Buf;
use kv_engine::resp::Value;

use crate::{Client, ClientError, integer, served, text};

/// How to set a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetOptions {
    /// The key goes after this time, of at least a millisecond.
    pub expires_after: Option<Duration>,
    /// Only if the key is not there.
    pub only_new: bool,
    /// Only if it is.
    pub only_existing: bool,
}

impl Client {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`ClientError`], like all that follow.
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Buf>, ClientError> {
        text(self.call(&[b"GET", key]).await?)
    }

    /// Gives `key` a value. False if the options forbid it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set(&mut self, key: &[u8], value: &[u8], options: SetOptions) -> Result<bool, ClientError> {
        let millis = options.expires_after.map(|after| after.as_millis().to_string());
        let mut args: Vec<&[u8]> = vec![b"SET", key, value];
        if let Some(millis) = &millis {
            args.extend([&b"PX"[..], millis.as_bytes()]);
        }
        args.extend(options.only_new.then_some(&b"NX"[..]));
        args.extend(options.only_existing.then_some(&b"XX"[..]));
        Ok(text(self.call(&args).await?)?.is_some())
    }

    /// Takes keys out, and says how many were there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn del(&mut self, keys: &[&[u8]]) -> Result<i64, ClientError> {
        integer(self.call(&with(b"DEL", keys)).await?)
    }

    /// How many of the keys are there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exists(&mut self, keys: &[&[u8]]) -> Result<i64, ClientError> {
        integer(self.call(&with(b"EXISTS", keys)).await?)
    }

    /// The values of several keys, all at one moment.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mget(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<Buf>>, ClientError> {
        match served(self.call(&with(b"MGET", keys)).await?)? {
            Value::Array(values) => values.into_iter().map(text).collect(),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Gives several keys their values, all at one moment.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mset(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), ClientError> {
        let pairs: Vec<&[u8]> = pairs.iter().flat_map(|&(key, value)| [key, value]).collect();
        served(self.call(&with(b"MSET", &pairs)).await?).map(|_| ())
    }

    /// Adds to a counter, and gives its new value.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn incr_by(&mut self, key: &[u8], by: i64) -> Result<i64, ClientError> {
        integer(self.call(&[b"INCRBY", key, by.to_string().as_bytes()]).await?)
    }

    /// Lets `key` go after this time. False if it is not there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn expire(&mut self, key: &[u8], after: Duration) -> Result<bool, ClientError> {
        Ok(integer(self.call(&[b"PEXPIRE", key, after.as_millis().to_string().as_bytes()]).await?)? == 1)
    }

    /// Proves who we are.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn auth(&mut self, password: &[u8]) -> Result<(), ClientError> {
        served(self.call(&[b"AUTH", password]).await?).map(|_| ())
    }

    /// Speaks RESP3 from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hello3(&mut self) -> Result<Value, ClientError> {
        served(self.call(&[b"HELLO", b"3"]).await?)
    }
}

fn with<'a>(name: &'a [u8], rest: &[&'a [u8]]) -> Vec<&'a [u8]> {
    std::iter::once(name).chain(rest.iter().copied()).collect()
}
