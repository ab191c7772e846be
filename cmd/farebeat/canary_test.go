package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// canaries are secrets that must not be seen anywhere but where they belong.
type canaries struct {
	mu    sync.Mutex
	forms map[string][][]byte // every form in which a secret could come out, by its name
}

// text plants a secret that is text.
func (c *canaries) text(name, secret string) string {
	c.plant(name, []byte(secret))
	return secret
}

// hex plants a secret whose text is the hexadecimal form of it.
func (c *canaries) hex(name string, secret []byte) string {
	text := hex.EncodeToString(secret)
	c.plant(name, []byte(text))
	c.plant(name, secret)
	return text
}

func (c *canaries) plant(name string, secret []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	forms := [][]byte{
		secret, bytes.ToUpper(secret), fmt.Appendf(nil, "%x", secret), fmt.Appendf(nil, "%X", secret), bytes.Trim(fmt.Appendf(nil, "%v", secret), "[]"),
		bytes.Trim(bytes.ReplaceAll(fmt.Appendf(nil, "%v", secret), []byte(" "), []byte(",")), "[]"), bytes.Trim(fmt.Appendf(nil, "%q", secret), `"`),
	}
	// In the middle of something longer, base64 of the same bytes has one of three forms.
	for before := range 3 {
		padded := append(make([]byte, before), secret...)
		padded = padded[:len(padded)/3*3]
		for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := []byte(e.EncodeToString(padded))
			if before > 0 {
				form = form[4:]
			}
			forms = append(forms, form)
		}
	}
	for _, form := range forms {
		if len(form) >= 8 {
			c.forms[name] = append(c.forms[name], form)
		}
	}
}

// found names the secrets that are in b, but for those that may be.
func (c *canaries) found(b []byte, may ...string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
next:
	for name, forms := range c.forms {
		for _, m := range may {
			if strings.HasPrefix(name, m) {
				continue next
			}
		}
		for _, form := range forms {
			if bytes.Contains(b, form) {
				names = append(names, name)
				continue next
			}
		}
	}
	return names
}

// TestCanariesAreFound: the search finds what it is to find, in each form.
func TestCanariesAreFound(t *testing.T) {
	c := &canaries{forms: map[string][][]byte{}}
	password := c.text("password", "correct-horse-battery")
	key := []byte("0123456789abcdef\x00\xff+/binary-key")
	c.hex("key", key)
	for _, b := range [][]byte{
		[]byte("x" + password), fmt.Appendf(nil, "%x", password),
		[]byte("Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+password))),
		[]byte(base64.URLEncoding.EncodeToString([]byte("us:" + password + "!"))),
		fmt.Appendf(nil, "%v", []byte(password)), []byte(strings.ToUpper(password)),
	} {
		if got := c.found(b); len(got) != 1 || got[0] != "password" {
			t.Errorf("%s: %v", b, got)
		}
	}
	for _, b := range [][]byte{key, fmt.Appendf(nil, "%X", key), fmt.Appendf(nil, "%q", key), []byte(base64.RawURLEncoding.EncodeToString(key)), fmt.Appendf(nil, "{%v}", key)} {
		if got := c.found(b); len(got) != 1 || got[0] != "key" {
			t.Errorf("%q: %v", b, got)
		}
		if got := c.found(b, "key"); got != nil {
			t.Errorf("where it may be: %v", got)
		}
	}
	if got := c.found([]byte("nothing to see")); got != nil {
		t.Errorf("%v", got)
	}
}
