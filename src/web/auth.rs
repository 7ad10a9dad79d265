//! Who may do what: tokens, and session cookies derived from them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    App,
    accept::Accept,
    error::{Error, Result},
    guard::Client,
    limiter::Limiter,
};
use crate::{
    clock::Clock,
    config::{Secret, Web},
    contract::Timestamp,
};

/// The session cookie, but for the port.
const COOKIE: &str = "imgcls_session";

/// A session ends after this time, or with its token.
const SESSION: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing but to log in.
    Nobody,
    /// Everything but what an administrator does.
    User,
    /// Everything.
    Admin,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// The tokens, and the failures of those who do not have them.
#[derive(Debug)]
pub(crate) struct Auth {
    user: Option<Token>,
    admin: Option<Token>,
    clock: Arc<dyn Clock>,
    limiter: Limiter,
}

/// A token's hash, to compare without telling its length, and the key for its sessions.
struct Token {
    hash: [u8; 32],
    key: Hmac<Sha256>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    fn new(text: &str) -> Option<Self> {
        // HMAC takes keys of any length, so this is always a key.
        Some(Self { hash: Sha256::digest(text).into(), key: Hmac::new_from_slice(text.as_bytes()).ok()? })
    }

    fn is(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.hash.ct_eq(&presented).into()
    }

    fn mac(&self, level: Level, until: Timestamp) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(format!("imgcls session 1|{}|{until}", level.name()).as_bytes());
        mac
    }
}

impl Auth {
    pub(crate) fn new(web: &Web, clock: Arc<dyn Clock>) -> Self {
        let token = |secret: &Option<Secret>| secret.as_ref().and_then(|secret| Token::new(secret.expose()));
        Self { user: token(&web.token), admin: token(&web.admin_token), clock, limiter: Limiter::default() }
    }

    /// What anybody may do.
    fn anybody(&self) -> Level {
        match (&self.user, &self.admin) {
            (None, None) => Level::Admin,
            (None, Some(_)) => Level::User,
            (Some(_), _) => Level::Nobody,
        }
    }

    /// Whether there is anything to log in to.
    pub(crate) fn has_tokens(&self) -> bool {
        self.anybody() < Level::Admin
    }

    /// What the holder of `token` may do.
    fn level_of(&self, token: &str) -> Option<Level> {
        if self.admin.as_ref().is_some_and(|admin| admin.is(token)) {
            return Some(Level::Admin);
        }
        let level = if self.admin.is_some() { Level::User } else { Level::Admin };
        self.user.as_ref().is_some_and(|user| user.is(token)).then_some(level)
    }

    /// The token whose sessions have `level`.
    fn token_for(&self, level: Level) -> Option<&Token> {
        match level {
            Level::Nobody => None,
            Level::User => self.user.as_ref(),
            Level::Admin => self.admin.as_ref().or(self.user.as_ref()),
        }
    }

    /// The `Set-Cookie` value of a new session of `client`.
    pub(crate) fn cookie(&self, level: Level, client: &Client) -> Option<String> {
        let until = self.clock.now() + SESSION;
        let mac = hex::encode(self.token_for(level)?.mac(level, until).finalize().into_bytes());
        Some(set_cookie(&format!("{}.{until}.{mac}", level.name()), SESSION, client))
    }

    fn level_of_session(&self, value: &str) -> Option<Level> {
        let mut parts = value.splitn(3, '.');
        let level = match parts.next()? {
            "user" => Level::User,
            "admin" => Level::Admin,
            _ => return None,
        };
        let until: Timestamp = parts.next()?.parse().ok()?;
        let mac = hex::decode(parts.next()?).ok()?;
        self.token_for(level)?.mac(level, until).verify_slice(&mac).ok()?;
        (self.clock.now() < until).then_some(level)
    }

    /// What the holder of `token`, who asks from `address`, may do. Every way to present a token comes through here, so
    /// that guessing is slow on all of them.
    ///
    /// # Errors
    /// 401 for a wrong token, 429 where too many were wrong.
    pub(crate) fn present(&self, token: &str, address: IpAddr) -> Result<Level> {
        self.limiter.check(address)?;
        self.level_of(token).ok_or_else(|| {
            self.limiter.failed(address);
            tracing::warn!(%address, "a wrong token was presented");
            Error::new(StatusCode::UNAUTHORIZED, "the token is wrong")
        })
    }

    /// What a request with these headers, which comes from `client`, may do.
    ///
    /// # Errors
    /// Those of [`Self::present`]: who sends a token wants to know that it is wrong.
    pub(crate) fn level(&self, headers: &HeaderMap, client: &Client) -> Result<Level> {
        if let Some(value) = headers.get(header::AUTHORIZATION)
            && self.has_tokens()
        {
            let token = value.to_str().ok().and_then(|v| {
                let (scheme, token) = v.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            });
            return self.present(token.unwrap_or_default(), client.address);
        }
        let name = cookie_name(client);
        let sessions = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
        let session = sessions
            .flat_map(|v| v.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(&name)?.strip_prefix('='))
            .find_map(|value| self.level_of_session(value));
        Ok(session.unwrap_or(Level::Nobody).max(self.anybody()))
    }
}

/// The name of the session cookie of `client`. Browsers send a host's cookies to each of its ports: servers that share
/// a host would take each other's sessions away if they shared the name. Behind proxies and in containers only the
/// client's side knows the port by which it tells them apart.
fn cookie_name(client: &Client) -> String {
    client.port.map_or_else(|| COOKIE.to_owned(), |port| format!("{COOKIE}_{port}"))
}

fn set_cookie(value: &str, max_age: Duration, client: &Client) -> String {
    let (name, secure) = (cookie_name(client), if client.https { "; Secure" } else { "" });
    format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict{secure}", max_age.as_secs())
}

/// The `Set-Cookie` value that ends the session of `client`.
pub(crate) fn no_cookie(client: &Client) -> String {
    set_cookie("", Duration::ZERO, client)
}

/// Lets through who may at least look.
pub(crate) async fn require_user(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Response {
    let level = match app.auth.level(request.headers(), &client) {
        Ok(level) => level,
        Err(error) => return error.into_response(),
    };
    if level < Level::User {
        let page = *request.method() == Method::GET && Accept::of(request.headers()).html;
        return if page {
            to_login(request.uri().path_and_query().map_or("/", |p| p.as_str()), "")
        } else {
            unauthorized()
        };
    }
    request.extensions_mut().insert(level);
    next.run(request).await
}

fn unauthorized() -> Response {
    Error::new(
        StatusCode::UNAUTHORIZED,
        "a token is needed; send it as \"Authorization: Bearer TOKEN\" or log in at /login",
    )
    .into_response()
}

fn to_login(next: &str, admin: &str) -> Response {
    Redirect::to(&format!("/login?next={}{admin}", utf8_percent_encode(next, NON_ALPHANUMERIC))).into_response()
}

/// Proof that the request may do what an administrator does.
#[derive(Debug)]
pub(crate) struct Admin;

impl<S: Sync> FromRequestParts<S> for Admin {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        if parts.extensions.get::<Level>().is_some_and(|level| *level == Level::Admin) {
            return Ok(Self);
        }
        if parts.method == Method::GET && Accept::of(&parts.headers).html {
            return Err(to_login(parts.uri.path_and_query().map_or("/", |p| p.as_str()), "&admin=true"));
        }
        Err(Error::new(StatusCode::FORBIDDEN, "the admin token is needed for this").into_response())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{clock::ManualClock, config::Raw};

    fn auth(user: &str, admin: &str) -> (Auth, Arc<ManualClock>) {
        let mut web = Raw::default().serve().unwrap().web;
        web.token = Secret::new(user);
        web.admin_token = Secret::new(admin);
        let clock = Arc::new(ManualClock::at(1_000_000));
        (Auth::new(&web, Arc::clone(&clock) as Arc<dyn Clock>), clock)
    }

    fn with(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    const fn client(https: bool, port: Option<u16>) -> Client {
        Client { address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), https, port }
    }

    fn level(auth: &Auth, headers: &HeaderMap) -> Result<Level> {
        auth.level(headers, &client(false, None))
    }

    fn session(auth: &Auth, level: Level) -> HeaderMap {
        let cookie = auth.cookie(level, &client(false, None)).unwrap();
        with(header::COOKIE, &format!("other=1; {}", cookie.split(';').next().unwrap()))
    }

    #[test]
    fn tokens_open_what_they_should() {
        for (user, admin, anybody, by_user, by_admin) in [
            ("", "", Level::Admin, None, None),
            ("u", "", Level::Nobody, Some(Level::Admin), None),
            ("u", "a", Level::Nobody, Some(Level::User), Some(Level::Admin)),
            ("", "a", Level::User, None, Some(Level::Admin)),
            ("same", "same", Level::Nobody, None, None),
        ] {
            let (auth, _) = auth(user, admin);
            assert_eq!(auth.anybody(), anybody, "{user:?} {admin:?}");
            assert_eq!((auth.level_of("u"), auth.level_of("a")), (by_user, by_admin), "{user:?} {admin:?}");
            assert_eq!(auth.level_of(""), None);
        }
    }

    #[test]
    fn bearer_tokens_and_sessions() {
        let (auth, clock) = auth("u", "a");
        assert_eq!(level(&auth, &with(header::AUTHORIZATION, "Bearer u")).unwrap(), Level::User);
        assert_eq!(level(&auth, &with(header::AUTHORIZATION, "bearer a")).unwrap(), Level::Admin);
        assert!(level(&auth, &with(header::AUTHORIZATION, "Bearer x")).is_err());
        assert!(level(&auth, &with(header::AUTHORIZATION, "Basic dTp1")).is_err());
        let (user, admin) = (session(&auth, Level::User), session(&auth, Level::Admin));
        assert_eq!(level(&auth, &user).unwrap(), Level::User);
        assert_eq!(level(&auth, &admin).unwrap(), Level::Admin);
        let forged = user[header::COOKIE].to_str().unwrap().replace("=user.", "=admin.");
        assert_eq!(level(&auth, &with(header::COOKIE, &forged)).unwrap(), Level::Nobody);

        let other = self::auth("other", "a").0;
        assert_eq!(level(&other, &user).unwrap(), Level::Nobody, "a session dies with its token");
        let same = self::auth("u", "a").0;
        assert_eq!(level(&same, &user).unwrap(), Level::User, "every instance takes it");
        clock.advance(std::time::Duration::from_secs(8 * 24 * 3600));
        assert_eq!(level(&auth, &user).unwrap(), Level::Nobody, "it ends by itself");
    }

    #[test]
    fn cookies_are_kept_from_scripts_and_other_sites() {
        let (auth, _) = auth("u", "");
        let cookie = auth.cookie(Level::Admin, &client(true, None)).unwrap();
        for attribute in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
            assert!(cookie.contains(attribute), "{cookie}");
        }
        assert!(!auth.cookie(Level::Admin, &client(false, None)).unwrap().contains("Secure"));
        assert!(!cookie.contains("=u"), "the token itself is not in it");
    }

    #[test]
    fn servers_that_share_a_host_leave_each_other_their_sessions() {
        let (first, second) = (auth("u", "").0, auth("other", "").0);
        let (at_8080, at_9090) = (client(false, Some(8080)), client(false, Some(9090)));
        let cookie = |auth: &Auth, client| auth.cookie(Level::Admin, client).unwrap();
        let pair = |cookie: &str| cookie.split(';').next().unwrap().to_owned();
        // As a browser keeps them: the later of two with one name.
        let kept = [pair(&cookie(&first, &at_8080)), pair(&cookie(&second, &at_9090))];
        let names: Vec<&str> = kept.iter().map(|pair| pair.split_once('=').unwrap().0).collect();
        assert_eq!(names, ["imgcls_session_8080", "imgcls_session_9090"]);
        let sent = with(header::COOKIE, &kept.join("; "));
        for (auth, client) in [(&first, &at_8080), (&second, &at_9090)] {
            assert_eq!(auth.level(&sent, client).unwrap(), Level::Admin);
        }
        assert_eq!(first.level(&sent, &at_9090).unwrap(), Level::Nobody, "that one ends with another log-out");
        assert!(no_cookie(&at_8080).starts_with("imgcls_session_8080=; "));
        assert!(cookie(&first, &client(false, None)).starts_with("imgcls_session=admin."), "at the scheme's port");
    }

    #[test]
    fn guessing_is_slow_however_tokens_are_presented() {
        let (auth, _) = auth("u", "");
        let bearer = |token: &str| level(&auth, &with(header::AUTHORIZATION, token)).map_err(|error| error.status());
        for _ in 0..5 {
            assert_eq!(bearer("Bearer wrong"), Err(StatusCode::UNAUTHORIZED));
            assert_eq!(auth.present("wrong", [10, 0, 0, 1].into()).unwrap_err().status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(bearer("Bearer u"), Err(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(auth.present("u", [10, 0, 0, 2].into()).unwrap(), Level::Admin);
        assert_eq!(level(&auth, &session(&auth, Level::Admin)).unwrap(), Level::Admin, "sessions are not concerned");
    }
}
