package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/farebeat/farebeat/fleet/console/access"
	"github.com/farebeat/farebeat/fleet/limit"
)

// signInRoutes are what somebody may ask who is not signed in.
func (c *Console) signInRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /signin", c.showSignIn)
	mux.HandleFunc("POST /signin", c.signIn)
	mux.HandleFunc("GET /signin/oidc", func(w http.ResponseWriter, r *http.Request) {
		if err := c.o.Gate.StartOIDC(w, r, access.LocalPath(r.URL.Query().Get("next"))); err != nil {
			c.fail(w, r, status(err), err)
		}
	})
	mux.HandleFunc("GET /signin/oidc/callback", func(w http.ResponseWriter, r *http.Request) {
		_, next, err := c.o.Gate.FinishOIDC(w, r)
		if err != nil {
			c.fail(w, r, status(err), err)
			return
		}
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
	mux.Handle("POST /signout", c.signedIn(c.signOut))
}

// signInForm is what the page to sign in shows.
type signInForm struct {
	Next, Name, Problem string
	OIDC                bool
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	c.signInPage(w, r, http.StatusOK, signInForm{Next: access.LocalPath(r.URL.Query().Get("next"))})
}

func (c *Console) signInPage(w http.ResponseWriter, r *http.Request, code int, f signInForm) {
	f.OIDC = c.o.OIDC
	c.write(w, r, code, "signin", c.shell(r, content{Title: "Sign in", Data: f}, ""))
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	f := signInForm{Next: access.LocalPath(r.PostFormValue("next")), Name: r.PostFormValue("name")}
	secret, _, err := c.o.Gate.SignIn(r.Context(), f.Name, r.PostFormValue("password"), limit.Address(r.RemoteAddr))
	if err != nil {
		f.Problem = sentence(err.Error())
		code := status(err)
		if code == http.StatusInternalServerError {
			c.o.Logger.Error("somebody could not sign in", "error", err)
		}
		var wait access.TooMany
		if errors.As(err, &wait) {
			w.Header().Set("Retry-After", number(int(wait.After.Seconds())+1))
		}
		c.signInPage(w, r, code, f)
		return
	}
	c.o.Gate.SetCookie(w, r, secret)
	http.Redirect(w, r, f.Next, http.StatusSeeOther)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	who := actor(r.Context())
	if err := c.o.Gate.SignOut(r.Context(), who.Identity, who.Remote); err != nil {
		c.fail(w, r, status(err), err)
		return
	}
	c.o.Gate.ClearCookie(w, r)
	http.Redirect(w, r, "/signin", http.StatusSeeOther)
}

// askAgain is how often it is asked whether somebody who watches a page still may.
const askAgain = 15 * time.Second

// watchGate ends a stream when whoever reads it may not any more, or may something else.
func (c *Console) watchGate(ctx context.Context, stop context.CancelFunc, who access.Identity) {
	ticker := time.NewTicker(askAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now, err := c.o.Gate.Check(ctx, who); err != nil || now.Role != who.Role {
			stop()
			return
		}
	}
}
