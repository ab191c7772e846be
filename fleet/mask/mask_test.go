package mask_test

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/fleet/mask"
)

// TestRefusalsAreMasked: a receiver that sends back all that it got shows no secret, and a success is left as it is.
func TestRefusalsAreMasked(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		code := http.StatusUnauthorized
		if r.Header.Get("Well") != "" {
			code = http.StatusOK
		}
		var out io.Writer = w
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(code)
			z := gzip.NewWriter(w)
			defer func() { _ = z.Close() }()
			out = z
		} else {
			w.WriteHeader(code)
		}
		user, password, _ := r.BasicAuth()
		fmt.Fprint(out, "no: ", r.URL, r.Header, string(b), user, password)
	}))
	defer server.Close()
	client := http.Client{Transport: mask.Transport{Path: true}}
	for name, change := range map[string]func(*http.Request){
		"bearer":                func(r *http.Request) { r.Header.Set("Authorization", "Bearer canary-1") },
		"token of InfluxDB 1.8": func(r *http.Request) { r.Header.Set("Authorization", "Token user:canary-1") },
		"basic":                 func(r *http.Request) { r.SetBasicAuth("user", "canary-1") },
		"query":                 func(r *http.Request) { r.URL.RawQuery = "a=canary-1" },
		"path":                  func(r *http.Request) { r.URL.Path = "/services/canary-1/x" },
		"form": func(r *http.Request) {
			const form = "client_secret=canary-1&code=canary-2"
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil }
		},
		"compressed": func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer canary-1")
			r.Header.Set("Accept-Encoding", "gzip")
		},
	} {
		for _, well := range []string{"", "yes"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/x", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			change(r)
			if well != "" {
				r.Header.Set("Well", well)
			}
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			if err := res.Body.Close(); err != nil {
				t.Error(err)
			}
			text := string(b)
			if well == "" && (err != nil || strings.Contains(text, "canary") || !strings.HasPrefix(text, "no: /") || !strings.Contains(text, "********")) {
				t.Errorf("%s: %v %s", name, err, text)
			}
			if well != "" && name != "compressed" && name != "basic" && !strings.Contains(text, "canary-1") {
				t.Errorf("%s, a success: %s", name, text)
			}
		}
	}
}
