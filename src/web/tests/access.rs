//! Who may do what.

use super::*;

#[tokio::test]
async fn tokens_guard_all_but_the_health_check() {
    let server = Server::start(|c| {
        c.web.token = Secret::new("user-token");
        c.web.admin_token = Secret::new("admin-token");
    })
    .await;
    assert_eq!(server.get("/healthcheck").await.status(), StatusCode::OK);
    for path in ["/", "/results", "/api/results", "/images/a", "/status", "/api/status", "/metrics", "/reset", "/x"] {
        assert_eq!(server.get(path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    // An orchestrator has no token, and needs no details.
    let ready: Value = server.get("/readyz").await.json().await.unwrap();
    assert_eq!((&ready["ready"], &ready["checks"]["disk"]), (&json!(true), &json!("ok")), "{ready}");
    let page = server.client.get(&server.url).header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (page.status(), &page.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/login?next=%2F".parse().unwrap())
    );
    let with = |method, path: &str, token: &str| {
        server.client.request(method, format!("{}{path}", server.url)).bearer_auth(token).send()
    };
    assert_eq!(with(Method::GET, "/api/status", "user-token").await.unwrap().status(), StatusCode::OK);
    assert_eq!(with(Method::GET, "/api/status", "wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    for (method, path) in [
        (Method::POST, "/reset"),
        (Method::GET, "/reset"),
        (Method::DELETE, "/images/a.png"),
        (Method::POST, "/requeue?which=all"),
        (Method::POST, "/queue/redrive"),
        (Method::POST, "/queue/drop"),
        (Method::GET, "/queue/dead"),
    ] {
        let status = with(method.clone(), path, "user-token").await.unwrap().status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        let status = with(method.clone(), path, "admin-token").await.unwrap().status();
        assert!(status == StatusCode::OK || status == StatusCode::NOT_FOUND, "{method} {path}: {status}");
    }
    sessions_are_guarded_and_guesses_limited(&server).await;
}

/// One wrong token was presented before.
async fn sessions_are_guarded_and_guesses_limited(server: &Server) {
    let login = |token: &str| {
        let form = [("token", token.to_owned()), ("next", "/status".to_owned())];
        server.client.post(format!("{}/login", server.url)).form(&form).send()
    };
    let done = login("user-token").await.unwrap();
    assert_eq!(done.headers()[header::LOCATION], "/status");
    let cookie = done.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let see = |path: &str| {
        let request = server.client.get(format!("{}{path}", server.url)).header("accept", "text/html");
        request.header("cookie", &cookie).send()
    };
    assert_eq!(see("/status").await.unwrap().status(), StatusCode::OK);
    // A user who wants an administrator's page is told so, before and after another try.
    let page = see("/reset").await.unwrap();
    let location = page.headers()[header::LOCATION].to_str().unwrap();
    assert_eq!((page.status(), location), (StatusCode::SEE_OTHER, "/login?next=%2Freset&admin=true"));
    assert!(see(location).await.unwrap().text().await.unwrap().contains("needs the admin token"));
    let form = [("token", "user-token"), ("next", "/reset"), ("admin", "true")];
    let again = server.client.post(format!("{}/login", server.url)).form(&form).send().await.unwrap();
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
    assert!(again.text().await.unwrap().contains("needs the admin token"));
    for _ in 0..9 {
        assert_eq!(login("wrong").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    let limited = login("wrong").await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers().contains_key(header::RETRY_AFTER));
    let limited = server.client.get(format!("{}/api/status", server.url)).bearer_auth("user-token");
    let limited = limited.send().await.unwrap();
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(see("/status").await.unwrap().status(), StatusCode::OK, "who is logged in is not concerned");
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let server = Server::start(|c| {
        c.web.token = Secret::new("token");
        c.web.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let login = |token: &str, client: &str| {
        let request = server.client.post(format!("{}/login", server.url)).form(&[("token", token.to_owned())]);
        request.header("x-forwarded-for", client).header("x-forwarded-proto", "https").send()
    };
    for _ in 0..10 {
        assert_eq!(login("wrong", "203.0.113.1").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(login("token", "203.0.113.1").await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    let done = login("token", "203.0.113.2").await.unwrap();
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(done.headers()[header::SET_COOKIE].to_str().unwrap().contains("; Secure"));
}
