package broker_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// TestWhatARefusedClientSees keeps what docs/topics.md promises under "Begin here" to those who write a client.
func TestWhatARefusedClientSees(t *testing.T) {
	bank := topics.Identity{Role: topics.RoleThirdParty, Name: "bank"}
	for name, version := range map[string]byte{"3.1.1": 4, "5": 5} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, broker.Options{}, func(t *testing.T, b *broker.Broker) {
				r := dial(t, b, bank, connect{id: "x", version: version})
				codes, _ := r.subscribe(1, root+"#", root+"route/#")
				if len(codes) != 2 || codes[0] < 0x80 || version == 4 && codes[0] != 0x80 || codes[1] != 1 {
					t.Errorf("SUBACK %#x, want the first refused and the second granted", codes)
				}
				if err := r.publish(pub{topic: root + "machine/m/heartbeat", payload: "{}"}); err != nil {
					t.Fatal(err)
				}
				r.ping() // a publish with QoS 0 that is refused does not end the connection
				if err := r.publish(pub{root + "report/x", "{}", 1, false}); err != nil {
					t.Fatal(err)
				}
				pk, err := r.read()
				if version == 4 {
					if err == nil && pk.FixedHeader.Type == packets.Disconnect {
						_, err = r.read()
					}
					if !errors.Is(err, io.EOF) {
						t.Errorf("%v, %v, want the end of the connection", pk.FixedHeader.Type, err)
					}
				}
				if version == 5 && (err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0x87) {
					t.Errorf("%v %#x, %v, want a PUBACK 0x87", pk.FixedHeader.Type, pk.ReasonCode, err)
				}
				synctest.Wait()

				m := dial(t, b, machineID("m"), connect{id: "m", version: version})
				m.mustPublish(pub{root + "machine/m/heartbeat", "{}", 1, false}) // how a machine's maker tries its topic
			})
		})
	}
}

// TestReturnCodeOfARefusedConnection: 5 for MQTT 3.1.1, whatever was wrong, so that a stranger learns nothing.
func TestReturnCodeOfARefusedConnection(t *testing.T) {
	secret, hash := broker.NewSecret()
	users, err := broker.NewUsers([]broker.User{
		{Name: "box", Role: topics.RoleMachine, ID: "m1", Hash: hash}, {Name: "sim", Role: topics.RoleSimulator, Hash: hash},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, broker.Options{Users: users, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}}})
	for name, o := range map[string]connect{
		"password": {id: "x", user: "box", password: "wrong"},
		"nobody":   {id: "x", user: "nobody", password: secret},
		"no user":  {id: "x"},
		"role":     {id: "x", user: "sim", password: secret},
		"will":     {id: "x", user: "box", password: secret, will: &will{root + "machine/m2/heartbeat", "{}", 0, false}},
	} {
		if _, code := join(t, tcp(t, b, "tcp"), o); code != 5 {
			t.Errorf("%s: return code %d, want 5", name, code)
		}
	}
}
