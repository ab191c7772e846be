// Package access says who looks at the console and calls its API, and what they may do.
//
// There are four ways in. A person signs in with a password of the users file, or with an OpenID Connect provider, and gets a
// session: a random secret in a cookie. A program has an API token that a person made. On a loopback address the console may
// stand open. Of sessions and tokens only the SHA-256 of the secret is kept, on disk, so that they outlive a restart and a
// stolen backup opens nothing.
//
// What somebody may do is asked anew at each request: who is gone from the users file, or lowered in it, is out at once.
// The package writes no pages; its caller does.
package access
