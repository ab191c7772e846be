package notify

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example of the specification's own tests.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	s, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	h, body, at := http.Header{}, []byte(`{"test": 2432232314}`), time.Unix(1614265330, 0)
	Sign(h, []Secret{secret(t, 7), s}, "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body)
	if got, want := h.Get(HeaderSignature), " v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; !strings.HasSuffix(got, want) || strings.Count(got, "v1,") != 2 {
		t.Errorf("%q", got)
	}
	if h.Get(HeaderTimestamp) != "1614265330" {
		t.Errorf("%v", h)
	}
	for name, c := range map[string]struct {
		spoil func(http.Header)
		body  string
		now   time.Time
		want  error
	}{
		"as it is":     {nil, string(body), at, nil},
		"just in time": {nil, string(body), at.Add(Tolerance), nil},
		"clock behind": {nil, string(body), at.Add(-Tolerance), nil},
		"old":          {nil, string(body), at.Add(Tolerance + time.Second), ErrTime},
		"from ahead":   {nil, string(body), at.Add(-Tolerance - time.Second), ErrTime},
		"other body":   {nil, `{"test": 2432232315}`, at, ErrSignature},
		"other id":     {func(h http.Header) { h.Set(HeaderID, "msg") }, string(body), at, ErrSignature},
		"other time":   {func(h http.Header) { h.Set(HeaderTimestamp, "1614265331") }, string(body), at, ErrSignature},
		"no time":      {func(h http.Header) { h.Set(HeaderTimestamp, "yesterday") }, string(body), at, ErrTime},
		"unsigned":     {func(h http.Header) { h.Del(HeaderSignature) }, string(body), at, ErrUnsigned},
		"v2": {func(h http.Header) {
			h.Set(HeaderSignature, strings.ReplaceAll(h.Get(HeaderSignature), "v1,", "v2,"))
		}, string(body), at, ErrSignature},
	} {
		spoilt := h.Clone()
		if c.spoil != nil {
			c.spoil(spoilt)
		}
		if err := Verify(s, spoilt, []byte(c.body), c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := Verify(Secret{}, h, body, at); !errors.Is(err, ErrUnsigned) {
		t.Errorf("without a secret: %v", err)
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	s := secret(t, 'k')
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(format, s) + fmt.Sprintf(format, Webhook{Secrets: []Secret{s}}); strings.Contains(text, "kkk") || strings.Contains(text, "a2tr") || strings.Contains(text, "107") || strings.Contains(text, "6b6b") {
			t.Errorf("%s: %s", format, text)
		}
	}
}

func TestFilesWithSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	put := func(text string, mode os.FileMode) {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put("# new\n"+secretText(1)+"\n\n  "+secretText(2)+"  \n", 0o600)
	if s, err := ReadSecrets(path); err != nil || len(s) != 2 {
		t.Errorf("%v, %v", s, err)
	}
	for text, want := range map[string]string{
		"":                             "holds no secret",
		"# nothing\n":                  "holds no secret",
		secretText(1) + "\nhush\n":     "line 2: want whsec_",
		"whsec_hush!":                  "line 1: what follows whsec_ is not base64",
		"whsec_aHVzaA==":               "line 1: want 24 to 64 bytes, got 4",
		strings.Repeat("#\n", maxFile): "is longer than 16384 bytes",
	} {
		put(text, 0o600)
		if _, err := ReadSecrets(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%.30q: %v", text, err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602} {
		put(secretText(1), mode)
		_, err := ReadSecrets(path)
		if err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("%o: %v", mode, err)
		}
		if _, again := ReadAuthorization(path); again == nil || again.Error() != err.Error() {
			t.Errorf("%o: %v", mode, again)
		}
	}
	if _, err := ReadSecrets(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for text, want := range map[string]string{"Bearer abc": "Bearer abc", " Basic dTpw\n": "Basic dTpw", "abc": "", "": "", "Bearer a\nX-Evil: b": "", "Bearer \n": ""} {
		put(text, 0o600)
		if got, err := ReadAuthorization(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func FuzzParseSecrets(f *testing.F) {
	f.Add([]byte("# c\n" + secretText(1) + "\n"))
	f.Add([]byte("whsec_\n"))
	f.Add([]byte("\xff\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		secrets, err := parseSecrets("file", text)
		if (err == nil) != (len(secrets) > 0) {
			t.Fatalf("%d secrets, %v", len(secrets), err)
		}
		for _, s := range secrets {
			h := http.Header{}
			Sign(h, secrets, "id", time.Unix(5, 0), text)
			if err := Verify(s, h, text, time.Unix(5, 0)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add("id", "1614265330", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", []byte("{}"))
	f.Add("", "-9223372036854775808", " v1, v1", []byte(nil))
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := http.Header{HeaderID: {id}}
		h.Set(HeaderID, id)
		h.Set(HeaderTimestamp, timestamp)
		h.Set(HeaderSignature, signature)
		if err := Verify(secret(t, 9), h, body, time.Unix(1614265330, 0)); err == nil {
			t.Fatal("forged without the secret")
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"120", "-1", "99999999999999999999", "Sat, 01 Jan 2000 00:20:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "soon", " 5 "} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if d := retryAfter(value, time.Unix(946684800, 0)); d < 0 || d > maxRetryAfter {
			t.Fatalf("%q: %s", value, d)
		}
	})
}
