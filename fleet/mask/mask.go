// Package mask keeps our own secrets out of what others answer. A proxy or receiver that refuses a request may send back what it got, with
// token and address; and what a receiver answers is logged, is the reason of a fault, and stands on topics and in the console.
package mask

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// masked stands where a secret was.
const masked = "********"

// shortest is the length from which a value is taken for a secret, in bytes: shorter ones would be found in any text.
const shortest = 6

// most is how much of a refusal is looked at and handed on, in bytes.
const most = 64 << 10

// Transport hands on requests, and masks in every answer that is no success (status 300 and above) what the request had in its header
// Authorization, in its query, and in a form of OAuth 2.0; with Path also the parts of its path.
type Transport struct {
	Next http.RoundTripper // nil: http.DefaultTransport
	Path bool
}

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	next := t.Next
	if next == nil {
		next = http.DefaultTransport
	}
	secrets := t.sent(r)
	res, err := next.RoundTrip(r)
	if err != nil || res.StatusCode < 300 {
		return res, err
	}
	var body io.Reader = res.Body
	if res.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(res.Body); err != nil {
			body = strings.NewReader("")
		}
		res.Header.Del("Content-Encoding")
	}
	text, err := io.ReadAll(io.LimitReader(body, most)) // what came before it broke off is the answer
	if closeErr := res.Body.Close(); closeErr != nil && err == nil {
		err = closeErr
	}
	text = Text(text, secrets)
	res.Header.Del("Content-Length")
	res.ContentLength = int64(len(text))
	res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(text), failing{err}))
	return res, nil
}

// failing ends as a body did.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}

// Text is b with the secrets masked, also where they are in base64.
func Text(b []byte, secrets []string) []byte {
	for _, s := range secrets {
		if len(s) < shortest {
			continue
		}
		for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s)), url.QueryEscape(s)} {
			b = bytes.ReplaceAll(b, []byte(form), []byte(masked))
		}
	}
	return b
}

// sent lists what of a request is a secret.
func (t Transport) sent(r *http.Request) []string {
	var secrets []string
	if credentials := r.Header.Get("Authorization"); credentials != "" {
		_, token, _ := strings.Cut(credentials, " ")
		secrets = append(secrets, token)
		if user, password, ok := strings.Cut(token, ":"); ok { // of InfluxDB 1.8
			secrets = append(secrets, user+":"+password, password)
		}
	}
	if _, password, ok := r.BasicAuth(); ok {
		secrets = append(secrets, password)
		if plain, err := url.QueryUnescape(password); err == nil { // as OAuth 2.0 has it
			secrets = append(secrets, plain)
		}
	}
	for _, values := range r.URL.Query() {
		secrets = append(secrets, values...)
	}
	if t.Path {
		secrets = append(secrets, strings.Split(r.URL.Path, "/")...)
	}
	return append(secrets, sentForm(r)...)
}

// sentForm lists the secrets of a request for an OAuth 2.0 token.
func sentForm(r *http.Request) []string {
	if r.GetBody == nil || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return nil
	}
	body, err := r.GetBody()
	if err != nil {
		return nil
	}
	defer func() { _ = body.Close() }() // a reader of memory
	text, err := io.ReadAll(io.LimitReader(body, most))
	if err != nil {
		return nil
	}
	form, err := url.ParseQuery(string(text))
	if err != nil {
		return nil
	}
	return []string{form.Get("client_secret"), form.Get("code"), form.Get("code_verifier"), form.Get("refresh_token")}
}
