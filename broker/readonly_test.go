package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
	"github.com/farebeat/farebeat/topics/session"
)

// webClient is a WebSocket as a net.Conn for the raw client.
type webClient struct {
	*websocket.Conn
	message io.Reader
}

func (c *webClient) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			_, r, err := c.NextReader()
			if err != nil {
				if t := net.Error(nil); errors.As(err, &t) {
					return 0, err
				}
				return 0, io.EOF
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *webClient) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *webClient) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// web connects to a WebSocket.
func web(t *testing.T, url string) net.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
	ws, resp, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	t.Cleanup(func() { ws.Close() })
	return &webClient{Conn: ws}
}

// handled serves the broker's handler at /mqtt of another server, and returns its URL.
func handled(t *testing.T, b *broker.Broker, anonymous bool) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/mqtt", b.ReadOnlyHandler(anonymous))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return "ws" + strings.TrimPrefix(s.URL, "http") + "/mqtt"
}

// reading is a broker with read-only ways in, by name, and one for all.
func reading(t *testing.T, o broker.Options) (b *broker.Broker, ways map[string]func(*testing.T) net.Conn) {
	t.Helper()
	o.Listeners = []broker.Listener{
		{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"},
		{Name: "look", Kind: "tcp", Address: "127.0.0.1:0", ReadOnly: true},
		{Name: "look-ws", Kind: "ws", Address: "127.0.0.1:0", ReadOnly: true},
	}
	b = start(t, o)
	url := handled(t, b, false)
	return b, map[string]func(*testing.T) net.Conn{
		"look":    func(t *testing.T) net.Conn { return tcp(t, b, "look") },
		"look-ws": func(t *testing.T) net.Conn { return web(t, "ws://"+b.Addr("look-ws")) },
		"http":    func(t *testing.T) net.Conn { return web(t, url) },
	}
}

// TestNobodyPublishesWhereOneOnlyReads: each way in, each QoS, and each role that may publish elsewhere.
func TestNobodyPublishesWhereOneOnlyReads(t *testing.T) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{
		{Name: "ada", Role: topics.RoleAdmin, Hash: hash},
		{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash},
		{Name: "gw", Role: topics.RoleGateway, ID: "v1", Hash: hash},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"look", "look-ws", "http"} {
		for _, c := range []struct {
			user, reads string
			pub         pub
		}{
			{"ada", "#", pub{root + "report/x", "{}", 1, false}},
			{"gw", "vehicle/v1/fault/#", pub{root + "vehicle/v1/gateway", "{}", 1, true}},
			{"box", "fleet", pub{root + "machine/m1/heartbeat", "{}", 0, false}},
			{"box", "fleet", pub{root + "machine/m1/heartbeat", "{}", 1, false}},
			{"ada", "#", pub{root + "report/x", "{}", 2, false}},
		} {
			for _, version := range []byte{4, 5} {
				t.Run(fmt.Sprintf("%s %s QoS %d v%d", way, c.user, c.pub.qos, version), func(t *testing.T) {
					var tap notes
					var log bytes.Buffer
					b, ways := reading(t, broker.Options{Users: users, Tap: &tap, Logger: slog.New(slog.NewTextHandler(&log, nil))})
					watch := dial(t, b, viewerID, connect{id: "r"})
					watch.subscribe(1, root+"#")
					r, code := join(t, ways[way](t), connect{id: "x", user: c.user, password: secret, version: version})
					if code != 0 {
						t.Fatalf("refused with %d", code)
					}
					if codes, _ := r.subscribe(1, root+c.reads); codes[0] != 1 {
						t.Errorf("%s is not granted: %#x", c.reads, codes[0])
					}
					if err := r.publish(c.pub); err != nil {
						t.Fatal(err)
					}
					if c.pub.qos == 0 {
						r.ping() // it is dropped, and the connection stands
					} else if pk, err := r.read(); isTimeout(err) || err == nil && pk.FixedHeader.Type == packets.Puback && pk.ReasonCode != 0x87 {
						t.Errorf("%v %#x, %v, want the end or a PUBACK 0x87", pk.FixedHeader.Type, pk.ReasonCode, err)
					}
					if got := watch.ping(); len(got) != 0 {
						t.Errorf("%s was delivered", text(got[0]))
					}
					if s := b.Stats(); s.RefusedWrite != 1 || s.RefusedForm != 0 || s.Retained != 0 || s.Heartbeats != 0 {
						t.Errorf("counted %+v, want one refused write", s)
					}
					closeBroker(t, b)
					if !strings.Contains(log.String(), "whoever connects here may only read; publish over another listener") {
						t.Errorf("the log:\n%s", &log)
					}
					tap.want(t) // a machine that reads is not one that is heard
				})
			}
		}
	}
}

func TestWillsAreRefusedWhereOneOnlyReads(t *testing.T) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{{Name: "gw", Role: topics.RoleGateway, ID: "v1", Hash: hash}})
	if err != nil {
		t.Fatal(err)
	}
	b, ways := reading(t, broker.Options{Users: users})
	with := connect{id: "x", user: "gw", password: secret, will: &will{root + "vehicle/v1/gateway", "{}", 1, true}}
	for name, way := range ways {
		before := b.Stats().RefusedConnect
		if _, code := join(t, way(t), with); code == 0 || b.Stats().RefusedConnect != before+1 {
			t.Errorf("%s: code %d, %d refused", name, code, b.Stats().RefusedConnect-before)
		}
	}
	if _, code := join(t, tcp(t, b, "tcp"), with); code != 0 {
		t.Errorf("refused with %d where one may publish", code)
	}
}

// TestAPahoClientReadsOverTheHandler is what MQTT Explorer does: it sees the tree, and its publish changes nothing.
func TestAPahoClientReadsOverTheHandler(t *testing.T) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{{Name: "ops", Role: topics.RoleOperator, Hash: hash}})
	if err != nil {
		t.Fatal(err)
	}
	for _, anonymous := range []bool{false, true} {
		t.Run(fmt.Sprint("anonymous ", anonymous), func(t *testing.T) {
			b := start(t, broker.Options{Users: users})
			fleet := dial(t, b, fleetID, connect{id: "fleet"})
			fleet.mustPublish(pub{root + "fleet", "here", 1, true})
			o := session.Options{ClientID: "explorer", CleanSession: true, Servers: []string{handled(t, b, anonymous)}, CloseTimeout: time.Second}
			if !anonymous {
				o.Username, o.Password = "ops", secret
			}
			down := make(chan struct{}, 16)
			o.Down = func(error) { down <- struct{}{} }
			s, err := session.New(o)
			if err != nil {
				t.Fatal(err)
			}
			got := make(chan string, 16)
			s.Handle(root+"#", 1, func(_ context.Context, m *session.Delivery) error {
				got <- m.Topic + "=" + string(m.Payload)
				return nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			var done sync.WaitGroup
			done.Go(func() {
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
			})
			defer done.Wait()
			defer cancel()
			if m := <-got; m != root+"fleet=here" {
				t.Errorf("got %s", m)
			}
			list := b.Clients()
			if len(list) != 2 || list[0].ID != "explorer" || list[0].Listener != "http" || !list[0].ReadOnly || list[0].Remote == "" || (list[0].User == "") != anonymous {
				t.Errorf("clients %+v", list)
			}
			publish, end := context.WithCancel(ctx)
			defer end()
			failed := make(chan error, 1)
			done.Go(func() {
				failed <- s.Publish(publish, session.Message{Topic: root + "report/x", Payload: []byte("{}"), QoS: 1})
			})
			<-down // MQTT 3.1.1 has no other word for it
			end()
			if err := <-failed; err == nil {
				t.Error("the publish was acknowledged")
			}
			if s := b.Stats(); s.RefusedWrite == 0 || s.Retained != 1 {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// TestAnonymousReadersComeByLoopback: a page of elsewhere may not read by a name of its own for our address.
func TestAnonymousReadersComeByLoopback(t *testing.T) {
	b := start(t, broker.Options{})
	url := handled(t, b, true)
	for host, ok := range map[string]bool{strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/mqtt"): true, "localhost": true, "evil.example": false} {
		ws, resp, err := websocket.DefaultDialer.Dial(url, http.Header{"Host": {host}})
		if resp != nil {
			resp.Body.Close()
		}
		if ws != nil {
			ws.Close()
		}
		if (err == nil) != ok {
			t.Errorf("host %s: %v, want ok %t", host, err, ok)
		}
	}
	far := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8080} // the server listens beyond this computer
	r := httptest.NewRequest(http.MethodGet, "http://localhost:8080/mqtt", nil)
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, far))
	w := httptest.NewRecorder()
	b.ReadOnlyHandler(true).ServeHTTP(w, r)
	if w.Code != http.StatusForbidden {
		t.Errorf("by %s: status %d", far, w.Code)
	}
	if n := b.Stats().RefusedConnect; n != 2 {
		t.Errorf("%d refusals counted", n)
	}
	r2, code := join(t, web(t, handled(t, b, false)), connect{id: "x"})
	if code == 0 {
		t.Error("a client without a user name was admitted")
		r2.bye()
	}
}
