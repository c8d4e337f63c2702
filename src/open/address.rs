//! Addresses as text, so that a program's configuration decides over what it is reached.
//!
//! | address | is |
//! |---|---|
//! | `shm:/run/user/1000/x.sock` | shared memory with who listens on that path ([`shm`](crate::shm), Linux) |
//! | `uds:/run/user/1000/x.sock` | a Unix socket ([`uds`](crate::uds)) |
//! | `tcp:localhost:7000`, `tcp:[::1]:7000` | TCP, with `TCP_NODELAY` set |
//!
//! `shm:@name` and `uds:@name` are abstract names, on Linux. Who may be at the other end of these two is decided by
//! [`Options::policy`](crate::Options::policy). Over TCP nobody can tell: whoever reaches the port is let in, so a program that
//! relies on its policy must not take a `tcp:` address from its configuration.
//!
//! ```
//! use adjoin::{Address, Options, address};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let address: Address = "tcp:127.0.0.1:0".parse()?; // out of a configuration
//! let listener = address::listen(&address).await?;
//! let address = listener.address().clone(); // with the port that the system chose
//! tokio::spawn(listener.serve(Options::new()));
//!
//! let connection = address::connect(&address, Options::new()).await?;
//! # connection.close().await;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod error;
mod listener;

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::net::{TcpListener, TcpStream};

pub use self::{
    error::{AddressError, OpenError, OpenFault},
    listener::{Incoming, Listener},
};
use crate::{
    open::stream,
    rpc::{connection::Connection, options::Options},
};

/// Where a service is reached, and over what. Parsed from text, and shown as the same text; see the
/// [module](crate::address).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// Shared memory with who listens on this path, or, if it begins with `@`, on this abstract name.
    Shm(PathBuf),
    /// A Unix socket of this path or abstract name.
    Uds(PathBuf),
    /// A name or an IP address, and a port behind a colon.
    Tcp(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let unknown = || AddressError::Scheme { text: text.to_owned() };
        let (scheme, rest) = text.split_once(':').ok_or_else(unknown)?;
        let path = || {
            let empty = rest.is_empty() || rest == "@";
            if empty { Err(AddressError::Empty { text: text.to_owned() }) } else { Ok(PathBuf::from(rest)) }
        };
        match scheme {
            "shm" => Ok(Address::Shm(path()?)),
            "uds" => Ok(Address::Uds(path()?)),
            "tcp" => {
                let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
                match port.map(str::parse::<u16>) {
                    Some(Ok(_)) => Ok(Address::Tcp(rest.to_owned())),
                    _ => Err(AddressError::Port { text: text.to_owned() }),
                }
            }
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Shm(path) => write!(f, "shm:{}", path.display()),
            Address::Uds(path) => write!(f, "uds:{}", path.display()),
            Address::Tcp(place) => write!(f, "tcp:{place}"),
        }
    }
}

/// As its text. A path that is no text (UTF-8) has none.
impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Address::Shm(path) | Address::Uds(path) = self
            && path.to_str().is_none()
        {
            return Err(serde::ser::Error::custom(format_args!("the path {path:?} is no text")));
        }
        serializer.collect_str(self)
    }
}

/// From its text.
impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Listens at an address.
///
/// # Errors
///
/// [`OpenError`], which names the address: somebody listens there already, or the system refuses it, or has nothing of the
/// kind.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O enabled.
pub async fn listen(address: &Address) -> Result<Listener, OpenError> {
    match address {
        #[cfg(target_os = "linux")]
        Address::Shm(path) => {
            crate::open::shm::listen(path).map(Listener::from).map_err(OpenError::at(address))
        }
        #[cfg(unix)]
        Address::Uds(path) => {
            crate::open::uds::listen(path).map(Listener::from).map_err(OpenError::at(address))
        }
        Address::Tcp(place) => {
            let socket = TcpListener::bind(place.as_str()).await.map_err(OpenError::at(address))?;
            let place = socket.local_addr().map_err(OpenError::at(address))?;
            Ok(Listener::tcp(socket, Address::Tcp(place.to_string())))
        }
        #[allow(unreachable_patterns, reason = "on systems that have all of them")]
        _ => Err(OpenError::at(address)(OpenFault::NotHere)),
    }
}

/// Connects to who listens at an address.
///
/// # Errors
///
/// [`OpenError`], which names the address: nobody listens there, or the two do not agree. A host that does not answer is given
/// up after [`Settings::handshake_timeout`](crate::Settings::handshake_timeout).
///
/// # Cancel safety
///
/// Dropped before it is done, there is no link.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time enabled; the link's driver runs on it.
pub async fn connect(address: &Address, options: Options) -> Result<Connection, OpenError> {
    match address {
        #[cfg(target_os = "linux")]
        Address::Shm(path) => crate::open::shm::connect(path, options).await.map_err(OpenError::at(address)),
        #[cfg(unix)]
        Address::Uds(path) => crate::open::uds::connect(path, options).await.map_err(OpenError::at(address)),
        Address::Tcp(place) => {
            let within = options.settings.handshake_timeout;
            let socket = connect_tcp(place, within).await.map_err(OpenError::at(address))?;
            socket.set_nodelay(true).map_err(OpenError::at(address))?;
            stream::connect(socket, options).await.map_err(OpenError::at(address))
        }
        #[allow(unreachable_patterns, reason = "on systems that have all of them")]
        _ => Err(OpenError::at(address)(OpenFault::NotHere)),
    }
}

/// The system would ask a host that does not answer for two minutes.
async fn connect_tcp(place: &str, within: Duration) -> io::Result<TcpStream> {
    tokio::time::timeout(within, TcpStream::connect(place)).await.unwrap_or_else(|_| {
        let why = format!("nobody has answered within {within:?} (Settings::handshake_timeout)");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_it_was_read() {
        for text in ["shm:/run/x.sock", "shm:@name", "uds:rel/x", "tcp:localhost:1", "tcp:[::1]:65535"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let coded = postcard::to_extend(&address, Vec::new()).unwrap();
            assert_eq!(postcard::from_bytes::<Address>(&coded).unwrap(), address);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_not_written_as_another() {
        use std::os::unix::ffi::OsStringExt;
        let path = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
        assert!(postcard::to_extend(&Address::Uds(path.into()), Vec::new()).is_err());
    }

    #[test]
    fn what_is_no_address_is_told_by_what_is_wrong() {
        let told = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert_eq!(
            told("/run/x.sock"),
            "`/run/x.sock` is no address: it begins with none of shm:, uds:, tcp:"
        );
        assert_eq!(told("http://x"), "`http://x` is no address: it begins with none of shm:, uds:, tcp:");
        assert_eq!(told("shm:"), "`shm:` is no address: it names nothing");
        assert_eq!(told("uds:@"), "`uds:@` is no address: it names nothing");
        for text in ["tcp:localhost", "tcp::80", "tcp:h:70000", "tcp:h:", "tcp:"] {
            assert_eq!(
                told(text),
                format!("`{text}` is no address: a host and a port are missing, as in tcp:localhost:7000")
            );
        }
    }
}
