//! Descriptors that travel with a message, and the system calls that carry them over a Unix socket.
//!
//! Whoever sends owns duplicates, made when the message was encoded, so that they live for as long as the message
//! waits. A message is committed once the system has taken its descriptors, and not before: what the system refuses
//! concerns that message alone. Whoever receives owns what arrived from the system call on: it is closed whatever happens
//! next, and if nobody took it, by the link's [`Closer`].

#[cfg(unix)]
mod apart;
mod closer;
mod pause;
#[cfg(target_os = "linux")]
mod room;
#[cfg(target_os = "linux")]
mod socket;
#[cfg(target_os = "linux")]
mod unread;

use std::{collections::VecDeque, sync::Arc};

#[cfg(unix)]
pub(crate) use self::apart::Apart;
pub(crate) use self::{
    closer::Closer,
    pause::{PAUSE, Pause},
};
#[cfg(target_os = "linux")]
pub(crate) use self::{
    socket::{End, Look, Lost, Received, adopt, discard, receive, refused, send},
    unread::{Unread, is_drained},
};

#[cfg(unix)]
pub(crate) type Fd = std::os::fd::OwnedFd;
/// Nothing: there are no descriptors.
#[cfg(not(unix))]
pub(crate) type Fd = std::convert::Infallible;

/// The descriptors of a message, in their order. One word, since nearly all messages have none.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(Option<Box<List>>);

#[derive(Debug, Default)]
struct List {
    open: VecDeque<Fd>,
    /// Who closes what is left of them, if a peer has passed them.
    closer: Option<Arc<Closer>>,
}

impl Descriptors {
    pub(crate) const NONE: Descriptors = Descriptors(None);

    /// The same, passed by a peer: `closer` closes what is left of them.
    pub(crate) fn passed(mut self, closer: &Arc<Closer>) -> Self {
        if let Some(list) = &mut self.0 {
            list.closer = Some(Arc::clone(closer));
        }
        self
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |list| list.open.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Fd> {
        self.0.iter().flat_map(|list| &list.open)
    }

    pub(crate) fn push(&mut self, descriptor: Fd) {
        self.0.get_or_insert_default().open.push_back(descriptor);
    }

    /// Adds others, which are closed by whom these are closed by, if there are any.
    #[cfg(target_os = "linux")]
    pub(crate) fn append(&mut self, mut others: Descriptors) {
        match (&mut self.0, &mut others.0) {
            (Some(list), Some(others)) => list.open.append(&mut others.open),
            (None, Some(_)) => *self = others,
            (_, None) => {}
        }
    }

    /// Takes the first one.
    #[cfg(unix)]
    pub(crate) fn pop(&mut self) -> Option<Apart> {
        let list = self.0.as_mut()?;
        let first = list.open.pop_front().map(|first| Apart::new(first, list.closer.clone()));
        if list.open.is_empty() {
            self.0 = None;
        }
        first
    }
}

impl Drop for List {
    fn drop(&mut self) {
        if let Some(closer) = self.closer.take() {
            closer.close(std::mem::take(&mut self.open));
        }
    }
}

impl FromIterator<Fd> for Descriptors {
    fn from_iter<I: IntoIterator<Item = Fd>>(descriptors: I) -> Self {
        let open = VecDeque::from_iter(descriptors);
        Descriptors((!open.is_empty()).then(|| Box::new(List { open, closer: None })))
    }
}

/// Descriptors that one message can carry: what Linux takes in one `sendmsg` (`SCM_MAX_FD`).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// The key in the metadata of a message that carries descriptors over a byte stream; its value says how many.
pub(crate) const ANNOUNCED: &str = "adjoin-descriptors";
