//! Why a peer does not know a method.

use std::fmt::{self, Display, Formatter};

use super::{
    compare::differences,
    description::{MethodDescription, ServiceDescription},
    show::Name,
};
use crate::rpc::{method::Method, method_id::MethodId};

/// What a peer says of a method that this side knows. Made by
/// [`Connection::explain`](crate::Connection::explain), to be shown.
///
/// "Here" is the side that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation {
    /// The peer has no service of this name.
    NoService {
        /// The service that was looked for.
        service: &'static str,
        /// The service of the peer whose name is closest, if one is close.
        closest: Option<String>,
        /// All services of the peer. None at all: it serves nothing.
        offered: Vec<String>,
    },
    /// The peer has the service, and no method of this name in it.
    NoMethod {
        /// The service.
        service: &'static str,
        /// The method that was looked for.
        method: &'static str,
        /// The method of the service whose name is closest, if one is close.
        closest: Option<String>,
        /// All methods of the service.
        offered: Vec<String>,
    },
    /// The peer has a method of this name with other arguments or another result.
    SignatureDiffers {
        /// The service.
        service: &'static str,
        /// The method.
        method: &'static str,
        /// Where the signatures differ. At least one place; not more than 16 are listed.
        differences: Vec<Difference>,
    },
    /// The peer has a method of this name under another id, and nothing is known to be wrong with it: the id
    /// is pinned on one side and not, or to something else, on the other.
    IdDiffers {
        /// The service.
        service: &'static str,
        /// The method.
        method: &'static str,
        /// Its id here.
        here: MethodId,
        /// Its id there.
        there: MethodId,
    },
    /// The peer offers this very method. If it is unknown to it nevertheless, the two answers came from
    /// different dispatchers.
    Offered {
        /// The service that has it there.
        service: String,
        /// Its name there, which may be another one if the id is pinned.
        method: String,
    },
    /// The peer does not say what it offers: introspection is switched off there, or it uses another
    /// library.
    NotStated,
}

/// A place where two signatures differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The place: `argument 2 "page", field "size"`.
    pub place: String,
    /// What stands there on the side that asks; `None`: nothing.
    pub here: Option<String>,
    /// What stands there on the other side; `None`: nothing.
    pub there: Option<String>,
}

impl Explanation {
    /// Looks for a method among what a peer offers.
    pub(super) fn of(method: &'static Method, offered: &[ServiceDescription]) -> Self {
        let methods =
            offered.iter().flat_map(|service| service.methods.iter().map(move |method| (service, method)));
        if let Some((service, method)) = methods.clone().find(|(_, other)| other.id == method.id) {
            return Explanation::Offered { service: service.name.clone(), method: method.name.clone() };
        }
        if !offered.iter().any(|service| service.name == method.service) {
            let offered: Vec<_> = offered.iter().map(|service| service.name.clone()).collect();
            let closest = closest(method.service, &offered);
            return Explanation::NoService { service: method.service, closest, offered };
        }
        let methods = methods.filter(|(service, _)| service.name == method.service).map(|(_, method)| method);
        match methods.clone().find(|other| other.name == method.name) {
            Some(there) => Explanation::of_same_name(method, there),
            None => {
                let offered: Vec<_> = methods.map(|method| method.name.clone()).collect();
                let closest = closest(method.name, &offered);
                Explanation::NoMethod { service: method.service, method: method.name, closest, offered }
            }
        }
    }

    fn of_same_name(method: &'static Method, there: &MethodDescription) -> Self {
        let here = MethodDescription::from(method);
        let (service, method) = (method.service, method.name);
        let differences = match (&here.signature, &there.signature) {
            (Some(here), Some(there)) => differences(here, there),
            _ => Vec::new(),
        };
        if differences.is_empty() {
            return Explanation::IdDiffers { service, method, here: here.id, there: there.id };
        }
        Explanation::SignatureDiffers { service, method, differences }
    }
}

/// The name that was probably meant.
fn closest(name: &str, offered: &[String]) -> Option<String> {
    let plausible = offered.iter().filter(|other| other.len() <= LONGEST_SIMILAR);
    let scored = plausible.map(|other| (strsim::jaro(name, other), other));
    let (likeness, closest) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (likeness > SIMILAR).then(|| closest.clone())
}

/// From here on two names are alike; what clap uses for its suggestions.
const SIMILAR: f64 = 0.7;

/// Bytes of a name that is compared: what a comparison costs grows with the length of what a peer sent.
const LONGEST_SIMILAR: usize = 256;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Explanation::NoService { service, closest, offered } => {
                write!(f, "the peer has no service `{service}`")?;
                instead(f, "offers", closest.as_deref(), offered)
            }
            Explanation::NoMethod { service, method, closest, offered } => {
                write!(f, "the peer's service `{service}` has no method `{method}`")?;
                instead(f, "has", closest.as_deref(), offered)
            }
            Explanation::SignatureDiffers { service, method, differences } => {
                write!(f, "the peer's method `{service}.{method}` has another signature: ")?;
                for (i, difference) in differences.iter().enumerate() {
                    let separator = if i > 0 { "; " } else { "" };
                    write!(f, "{separator}{difference}")?;
                }
                Ok(())
            }
            Explanation::IdDiffers { service, method, here, there } => write!(
                f,
                "the method `{service}.{method}` has the id {here} here and {there} there: pin the same id on \
                 both sides, or on neither"
            ),
            Explanation::Offered { service, method } => {
                write!(f, "the peer offers this very method, as `{}.{}`", Name(service), Name(method))
            }
            Explanation::NotStated => f.write_str("the peer does not say what it offers"),
        }
    }
}

/// What there is in place of what is missing.
fn instead(f: &mut Formatter<'_>, verb: &str, closest: Option<&str>, offered: &[String]) -> fmt::Result {
    if let Some(closest) = closest {
        return write!(f, "; the closest is `{}`", Name(closest));
    }
    if offered.is_empty() {
        return write!(f, "; it {verb} none");
    }
    write!(f, "; it {verb} ")?;
    for (i, name) in offered.iter().take(LISTED).enumerate() {
        write!(f, "{}`{}`", if i > 0 { ", " } else { "" }, Name(name))?;
    }
    match offered.len().checked_sub(LISTED) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, " and {more} more"),
    }
}

/// Names that are shown.
const LISTED: usize = 8;

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Difference { place, here, there } = self;
        match (here, there) {
            (Some(here), Some(there)) => write!(f, "{place}: {here} here, {there} there"),
            (Some(_), None) => write!(f, "{place} is missing there"),
            (None, Some(_)) => write!(f, "{place} is missing here"),
            (None, None) => f.write_str(place),
        }
    }
}
