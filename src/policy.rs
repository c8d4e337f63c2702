//! Who may be at the other end of a Unix socket.

use std::{fmt, sync::Arc};

/// What the system says of the process at the other end of a Unix socket, as it was when that connected or listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process id. `None` where the system does not say.
    pub pid: Option<u32>,
}

impl PeerCredentials {
    #[cfg(unix)]
    pub(crate) fn new(uid: u32, gid: u32, pid: Option<u32>) -> Self {
        PeerCredentials { uid, gid, pid }
    }
}

impl fmt::Display for PeerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeerCredentials { uid, gid, pid } = self;
        match pid {
            Some(pid) => write!(f, "process {pid} of user {uid}, group {gid}"),
            None => write!(f, "a process of user {uid}, group {gid}"),
        }
    }
}

/// Which processes may be at the other end of a Unix socket: of one that shares memory, and of one that an
/// [`Address`](crate::Address) names. Default: those of the same user.
///
/// Holds on both sides: who listens asks it of those who connect, and who connects of the one that listens. Whoever is not
/// let in has no link, and nothing was served.
///
/// ```
/// use adjoin::{Options, Policy};
///
/// // A daemon that runs as root, for everybody in the group 100:
/// let daemon = Options::new().policy(Policy::custom(|peer| peer.gid == 100));
/// // Its clients, who expect root:
/// let client = Options::new().policy(Policy::users([0]));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Policy(Rule);

#[derive(Clone, Default)]
enum Rule {
    #[default]
    SameUser,
    AnyUser,
    Users(Arc<[u32]>),
    Custom(Arc<dyn Fn(&PeerCredentials) -> bool + Send + Sync>),
}

impl Policy {
    /// Processes of the user that this one runs as. The default.
    pub fn same_user() -> Self {
        Policy(Rule::SameUser)
    }

    /// Everybody. Who can reach the socket is then decided by its path's permissions alone; an abstract one is reached by
    /// all of the network namespace.
    pub fn any_user() -> Self {
        Policy(Rule::AnyUser)
    }

    /// Processes of these users, and of no other: also not of the own one, unless it is among them.
    pub fn users(uids: impl IntoIterator<Item = u32>) -> Self {
        Policy(Rule::Users(uids.into_iter().collect()))
    }

    /// Those for which `allow` says so. It must not block.
    pub fn custom(allow: impl Fn(&PeerCredentials) -> bool + Send + Sync + 'static) -> Self {
        Policy(Rule::Custom(Arc::new(allow)))
    }

    /// Whether a process is let in.
    #[cfg(unix)]
    pub(crate) fn allows(&self, peer: &PeerCredentials) -> bool {
        match &self.0 {
            Rule::SameUser => peer.uid == rustix::process::geteuid().as_raw(),
            Rule::AnyUser => true,
            Rule::Users(uids) => uids.contains(&peer.uid),
            Rule::Custom(allow) => allow(peer),
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::SameUser => f.write_str("SameUser"),
            Rule::AnyUser => f.write_str("AnyUser"),
            Rule::Users(uids) => f.debug_tuple("Users").field(uids).finish(),
            Rule::Custom(_) => f.write_str("Custom(..)"),
        }
    }
}
