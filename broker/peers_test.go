package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// peersVariable names the Python program that has paho-mqtt; Mosquitto's clients are on the path then, too.
const peersVariable = "FAREBEAT_MQTT_PEERS"

// pahoClient connects with paho-mqtt 1.6 and does one thing: publish, or subscribe and print what comes first. It ends with what the broker said.
const pahoClient = `
import ssl, sys, threading, time
import paho.mqtt.client as mqtt
port, ca, pair, action, topic = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5]
c = mqtt.Client(client_id="paho", protocol=mqtt.MQTTv5)
c.tls_set(ca_certs=ca, certfile=pair or None, keyfile=pair or None, tls_version=ssl.PROTOCOL_TLS_CLIENT)
done, said = threading.Event(), []
def end(text):
    said.append(text)
    done.set()
def connected(c, u, flags, reason, properties):
    if reason != 0:
        return end("connect: %s" % reason)
    if action == "sub":
        c.subscribe(topic, 1)
def disconnected(c, u, reason, properties=None):
    end("disconnected: %s" % reason)
def subscribed(c, u, mid, reasons, properties):
    if reasons[0].value >= 128:
        end("subscribe: %s" % reasons[0])
c.on_connect, c.on_disconnect, c.on_subscribe = connected, disconnected, subscribed
c.on_message = lambda c, u, m: end("got " + m.payload.decode())
try:
    c.connect("127.0.0.1", port, 30)
except (ssl.SSLError, OSError) as e:
    sys.exit("tls: %s" % e)
if action != "sub":
    c.on_publish = lambda c, u, mid: end("published")
    c.publish(topic, action, 1 if action == "{}" else 0, retain=action == "{}")
until = time.time() + 20
while not done.is_set() and time.time() < until:
    try:
        c.loop(0.2)
    except (ssl.SSLError, OSError) as e:
        end("tls: %s" % e)
print(said[0] if said else "nothing")
`

// peer is somebody else's client.
type peer struct {
	t               *testing.T
	dir, port, ca   string
	python, program string
}

func (p peer) run(name string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	if err != nil {
		out.WriteString(" [" + err.Error() + "]")
	}
	return strings.TrimSpace(out.String())
}

// mosquitto runs one of Mosquitto's clients with a certificate and its key in one file, "" for none.
func (p peer) mosquitto(program, pair string, args ...string) string {
	p.t.Helper()
	all := []string{"-h", "127.0.0.1", "-p", p.port, "--cafile", p.ca, "-q", "1", "-i", "mosquitto"}
	if pair != "" {
		all = append(all, "--cert", pair, "--key", pair)
	}
	return p.run(program, append(all, args...)...)
}

func (p peer) paho(pair, action, topic string) string {
	p.t.Helper()
	return p.run(p.python, p.program, p.port, p.ca, pair, action, topic)
}

// write writes a certificate with its key, or, without a key, an authority's.
func (p peer) write(name string, c tls.Certificate) string {
	p.t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
	if c.PrivateKey != nil {
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			p.t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	path := filepath.Join(p.dir, name+".pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// TestIndependentClients: Mosquitto's clients and Python's paho-mqtt over mutual TLS may what their certificate may, and are refused the rest.
func TestIndependentClients(t *testing.T) {
	python := os.Getenv(peersVariable)
	if python == "" {
		t.Skip(peersVariable + " names no Python with paho-mqtt: scripts/test installs it and Mosquitto's clients, and runs this")
	}
	tree, ours, strange := tampa(t), newAuthority(t), newAuthority(t)
	revoked := ours.of(tree, topics.RoleGateway, "v1")
	saw := &notes{}
	b := start(t, broker.Options{
		Tap: saw, Void: func(c *x509.Certificate) error {
			if c.SerialNumber.Cmp(revoked.Leaf.SerialNumber) == 0 {
				return errors.New("it was revoked")
			}
			return nil
		},
		Listeners: []broker.Listener{{Name: "tls", Kind: "tls", Address: "127.0.0.1:0", TLS: ours.server(tls.RequireAndVerifyClientCert)}},
	})
	_, port, err := net.SplitHostPort(b.Addr("tls"))
	if err != nil {
		t.Fatal(err)
	}
	p := peer{t: t, dir: t.TempDir(), port: port, python: python}
	p.program = filepath.Join(p.dir, "client.py")
	if err := os.WriteFile(p.program, []byte(pahoClient), 0o600); err != nil {
		t.Fatal(err)
	}
	p.ca = p.write("ca", tls.Certificate{Certificate: [][]byte{ours.cert.Raw}})
	gateway, machine := p.write("gateway", ours.of(tree, topics.RoleGateway, "v1")), p.write("machine", ours.of(tree, topics.RoleMachine, "m1"))
	stranger, void := p.write("stranger", strange.of(tree, topics.RoleGateway, "v1")), p.write("void", revoked)
	old := time.Now().AddDate(-1, 0, 0)
	expired := p.write("expired", ours.sign(x509.Certificate{Subject: pkix.Name{CommonName: "old"}, NotBefore: old, NotAfter: old.AddDate(0, 1, 0)}))
	fleet := dial(t, b, fleetID, connect{id: "fleet"})
	fault, beat := root+"vehicle/v1/fault/m1", root+"machine/m1/heartbeat"
	fleet.mustPublish(pub{topic: fault, payload: "ours", qos: 1, retain: true})
	fleet.mustPublish(pub{topic: root + "vehicle/v2/fault/m2", payload: "theirs", qos: 1, retain: true})

	for _, tc := range []struct{ what, got, want string }{
		{"its own fault, mosquitto_sub", p.mosquitto("mosquitto_sub", gateway, "-t", fault, "-C", "1", "-W", "20"), "ours"},
		{"its own fault, paho", p.paho(gateway, "sub", fault), "got ours"},
		{"another's fault, mosquitto_sub", p.mosquitto("mosquitto_sub", gateway, "-t", root+"vehicle/v2/fault/+", "-C", "1", "-W", "20"), "All subscription requests were denied."},
		{"another's fault, paho", p.paho(gateway, "sub", root+"vehicle/v2/fault/+"), "subscribe: "},
		{"all there is, mosquitto_sub", p.mosquitto("mosquitto_sub", gateway, "-t", "#", "-C", "1", "-W", "20"), "All subscription requests were denied."},
		{"its own heartbeat, mosquitto_pub", p.mosquitto("mosquitto_pub", machine, "-q", "0", "-t", beat, "-m", "one"), ""},
		{"its own heartbeat, paho", p.paho(machine, "two", beat), "published"},
		{"its own state, mosquitto_pub", p.mosquitto("mosquitto_pub", gateway, "-t", root+"vehicle/v1/gateway", "-r", "-m", "{}"), ""},
		{"its own state, paho", p.paho(gateway, "{}", root+"vehicle/v1/gateway"), "published"},
		{"another's heartbeat, mosquitto_pub", p.mosquitto("mosquitto_pub", machine, "-V", "mqttv5", "-t", root+"machine/m2/heartbeat", "-m", "false"), "Not authorized"},
		{"another's state, mosquitto_pub", p.mosquitto("mosquitto_pub", gateway, "-V", "mqttv5", "-t", root+"vehicle/v2/gateway", "-r", "-m", "false"), "Not authorized"},
		{"no certificate, mosquitto_pub", p.mosquitto("mosquitto_pub", "", "-t", beat, "-m", "false"), "exit status"},
		{"no certificate, paho", p.paho("", "sub", fault), "certificate required"},
		{"no certificate and a user name", p.mosquitto("mosquitto_pub", "", "-u", "m1", "-P", "guess", "-t", beat, "-m", "false"), "exit status"},
		{"another authority's, mosquitto_sub", p.mosquitto("mosquitto_sub", stranger, "-t", fault, "-C", "1", "-W", "20"), "exit status"},
		{"another authority's, paho", p.paho(stranger, "sub", fault), "unknown ca"},
		{"an expired one, mosquitto_sub", p.mosquitto("mosquitto_sub", expired, "-t", fault, "-C", "1", "-W", "20"), "exit status"},
		{"a revoked one, mosquitto_sub", p.mosquitto("mosquitto_sub", void, "-t", fault, "-C", "1", "-W", "20"), "not authorised"},
		{"a revoked one, paho", p.paho(void, "sub", fault), "connect: "},
		{"another's server, mosquitto_sub", p.run("mosquitto_sub", "-h", "127.0.0.1", "-p", port, "--cafile", p.write("other-ca", tls.Certificate{Certificate: [][]byte{strange.cert.Raw}}), "--cert", gateway, "--key", gateway, "-t", fault, "-C", "1", "-W", "20"), "exit status"},
	} {
		if tc.want == "" && tc.got != "" || !strings.Contains(tc.got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.what, tc.got, tc.want)
		}
	}
	saw.mu.Lock()
	defer saw.mu.Unlock()
	var beats []string
	for _, line := range saw.lines {
		if strings.HasPrefix(line, "beat ") {
			beats = append(beats, line)
		}
	}
	if strings.Join(beats, ", ") != "beat m1 one, beat m1 two" {
		t.Errorf("heartbeats: %q", beats)
	}
}
