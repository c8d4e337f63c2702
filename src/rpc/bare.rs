//! Descriptors that stand bare in a signature.

use std::{
    fmt,
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::{
    call::Call, dedup::Nonce, descriptor::Descriptor, errors::CallError, method::Method, wire::Arguments,
};
use crate::session::metadata::Metadata;

/// A type that generated code converts where it crosses a link: `OwnedFd`, and `Option` and `Vec` of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no descriptor",
    label = "not `std::os::fd::OwnedFd`",
    note = "a type of this name in a signature is taken for a descriptor: give yours another name there"
)]
pub trait Bare: Sized + 'static {
    /// What crosses the link.
    type Carried: 'static;

    /// As it crosses the link.
    fn into_carried(self) -> Self::Carried;

    /// As the signature has it.
    fn from_carried(carried: Self::Carried) -> Self;
}

impl Bare for OwnedFd {
    type Carried = Descriptor;

    fn into_carried(self) -> Descriptor {
        self.into()
    }

    fn from_carried(carried: Descriptor) -> Self {
        carried.into()
    }
}

impl<T: Bare> Bare for Option<T> {
    type Carried = Option<T::Carried>;

    fn into_carried(self) -> Self::Carried {
        self.map(T::into_carried)
    }

    fn from_carried(carried: Self::Carried) -> Self {
        carried.map(T::from_carried)
    }
}

impl<T: Bare> Bare for Vec<T> {
    type Carried = Vec<T::Carried>;

    fn into_carried(self) -> Self::Carried {
        self.into_iter().map(T::into_carried).collect()
    }

    fn from_carried(carried: Self::Carried) -> Self {
        carried.into_iter().map(T::from_carried).collect()
    }
}

/// A [`Call`] whose result is a plain `OwnedFd`, or an `Option` or a `Vec` of it, and in all else like one.
#[must_use = "a call does nothing until it is awaited"]
pub struct BareCall<A, T: Bare, E> {
    call: Call<A, T::Carried, E>,
}

impl<A, T: Bare, E> BareCall<A, T, E> {
    pub(crate) fn new(call: Call<A, T::Carried, E>) -> Self {
        BareCall { call }
    }

    /// As [`Call::with_timeout`].
    pub fn with_timeout(self, timeout: Duration) -> Self {
        BareCall { call: self.call.with_timeout(timeout) }
    }

    /// As [`Call::with_metadata`].
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        BareCall { call: self.call.with_metadata(metadata) }
    }

    /// As [`Call::with_nonce`]. What has a descriptor in its result is not remembered.
    pub fn with_nonce(self, nonce: Nonce) -> Self {
        BareCall { call: self.call.with_nonce(nonce) }
    }

    /// The method that is called.
    #[must_use]
    pub fn method(&self) -> &'static Method {
        self.call.method()
    }
}

impl<A, T, E> BareCall<A, T, E>
where
    A: Arguments,
    T: Bare,
    T::Carried: DeserializeOwned,
    E: DeserializeOwned + 'static,
{
    /// As [`Call::block`].
    ///
    /// # Errors
    ///
    /// As the call itself.
    ///
    /// # Deadlocks
    ///
    /// As [`Call::block`].
    pub fn block(self) -> Result<T, CallError<E>> {
        self.call.block().map(T::from_carried)
    }
}

impl<A, T, E> Future for BareCall<A, T, E>
where
    A: Arguments,
    T: Bare,
    T::Carried: DeserializeOwned,
    E: DeserializeOwned + 'static,
{
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.call).poll(cx)).map(T::from_carried))
    }
}

impl<A, T: Bare, E> fmt::Debug for BareCall<A, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}
