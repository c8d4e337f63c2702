//! Descriptors as values.

use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use postcard_schema::{
    Schema,
    schema::{DataModelType, NamedType, NamedValue},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::{method_id::DESCRIPTOR_FIELD, scope};
use crate::link::descriptors::Apart;

/// An open file, socket or whatever else has a descriptor, as a value that crosses a link.
///
/// It may stand anywhere in the arguments and in the result of a method, as a [`Tx`](crate::Tx) or an
/// [`Rx`](crate::Rx) may: in structs, enums, `Option`, `Vec`, maps. It cannot stand in an error or in a stream's
/// element; those are refused where they are sent. In the signature of a method, where the types are spelled out, a
/// plain `OwnedFd` does as well, also in `Option` and `Vec`: see [`service`](macro@crate::service).
///
/// The receiver gets a descriptor of its own for the same open file, which the programs that it starts do not inherit.
/// The sender's is duplicated when the value is encoded, and closed with the value. What does not reach a handler or a
/// caller is closed: descriptors of calls that are cancelled, whose arguments cannot be read, or whose link ends.
///
/// | link | carries descriptors |
/// |---|---|
/// | shared memory | yes |
/// | [`stream`](crate::stream) over a tokio `UnixStream` | on Linux |
/// | [`local`](crate::local) | yes |
/// | every other stream | no: the call is refused with [`Refusal::DescriptorsNotCarried`](crate::Refusal) |
///
/// So is a call of a method that always returns one. Where a result only may have a descriptor, and has, the call fails with
/// [`Unanswered`](crate::CallError::Unanswered). A peer that speaks the protocol without this extension finds one entry
/// of metadata that it does not know, and no descriptor.
///
/// A proxy passes descriptors on, if both of its links carry them. A call with descriptors is not deduplicated, and is
/// not made again by a [reconnecting](crate::reconnect) client once it may have run.
///
/// | limit | setting |
/// |---|---|
/// | of one message, and of what is under way to a peer that has not received it | [`max_descriptors`](crate::Settings::max_descriptors) |
/// | of the peer's requests that run | [`max_held_descriptors`](crate::Settings::max_held_descriptors) |
/// | of the time that a message waits while the system passes none | [`descriptor_timeout`](crate::Settings::descriptor_timeout) |
///
/// What a peer has passed may take its time to be closed, as long as the peer likes: a socket that lingers, a file whose
/// file system it serves. Dropped as a `Descriptor`, it is closed by a thread for that; as an `OwnedFd`, by whoever
/// drops that.
///
/// A stream that the application has made must not have `SO_PASSPIDFD` set: what the system adds with it is lost.
///
/// ```
/// # #[cfg(all(feature = "macros", target_os = "linux"))] mod example {
/// use adjoin::{Descriptor, Options, Schema, local};
/// use std::{fs::File, io::{Read, Write}, os::fd::OwnedFd};
///
/// #[derive(serde::Serialize, serde::Deserialize, Schema)]
/// #[postcard(crate = adjoin::postcard_schema)]
/// struct Log {
///     name: String,
///     to: Descriptor,
/// }
///
/// #[adjoin::service]
/// trait Files {
///     async fn open(&self, path: String) -> Result<OwnedFd, String>;
///     async fn log(&self, log: Log);
/// }
///
/// struct Plain;
///
/// impl Files for Plain {
///     async fn open(&self, path: String) -> Result<OwnedFd, String> {
///         Ok(File::open(path).map_err(|error| error.to_string())?.into())
///     }
///
///     async fn log(&self, log: Log) {
///         let _ = writeln!(File::from(log.to), "{} is here", log.name);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, _server) = local::pair(Options::new(), Options::new().serve(FilesDispatcher::new(Plain)));
/// let files = FilesClient::new(&client);
/// let (mut reads, writes) = std::io::pipe()?;
/// files.log(Log { name: "ada".into(), to: OwnedFd::from(writes).into() }).await?;
/// let mut log = String::new();
/// reads.read_to_string(&mut log)?; // to the end: nobody else has the other end any more
/// assert_eq!(log, "ada is here\n");
///
/// let null: OwnedFd = files.open("/dev/null".into()).await?;
/// assert_eq!(File::from(null).read(&mut [0; 8])?, 0);
/// # Ok(()) }
/// # }
/// # #[cfg(all(feature = "macros", target_os = "linux"))] fn main() { example::main().unwrap() }
/// # #[cfg(not(all(feature = "macros", target_os = "linux")))] fn main() {}
/// ```
#[derive(Debug)]
pub struct Descriptor(Apart);

impl From<OwnedFd> for Descriptor {
    fn from(descriptor: OwnedFd) -> Self {
        Descriptor(Apart::new(descriptor, None))
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0.into_inner()
    }
}

impl From<File> for Descriptor {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

/// The descriptor may be of anything: what a file cannot do fails when it is tried.
impl From<Descriptor> for File {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0.into_inner().into()
    }
}

impl From<UnixStream> for Descriptor {
    fn from(stream: UnixStream) -> Self {
        OwnedFd::from(stream).into()
    }
}

/// The descriptor may be of anything: what a stream cannot do fails when it is tried.
impl From<Descriptor> for UnixStream {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0.into_inner().into()
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Binds the descriptor while a call's arguments or result are encoded; refuses elsewhere.
impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let place = scope::bind_descriptor(self.as_fd())
            .ok_or_else(|| S::Error::custom("a descriptor cannot be passed here"))?;
        serializer.serialize_u64(place)
    }
}

/// Takes the next descriptor of the message that is being decoded; refuses elsewhere.
impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer)?; // the message's list is authoritative
        scope::claim_descriptor()
            .map(Descriptor)
            .ok_or_else(|| D::Error::custom("no descriptor came with the message for this place"))
    }
}

/// A structure that no user's type can have.
impl Schema for Descriptor {
    const SCHEMA: &'static NamedType = &NamedType {
        name: "Descriptor",
        ty: &DataModelType::Struct(&[&NamedValue { name: DESCRIPTOR_FIELD, ty: u64::SCHEMA }]),
    };
}
