package broker_test

import (
	"slices"
	"strings"
	"testing"

	paho "github.com/eclipse/paho.mqtt.golang"
	"pgregory.net/rapid"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// disguises are other ways to say a topic or filter that a careless broker would take for it.
func disguises(topic, operator string) []string {
	root := "farebeat/v1/" + operator + "/"
	rest := strings.TrimPrefix(topic, root)
	return []string{
		topic, "/" + topic, topic + "/", "//" + topic, strings.ToUpper(topic), "Farebeat/v1/" + operator + "/" + rest, "farebeat/V1/" + operator + "/" + rest,
		"farebeat/v1/" + strings.ToUpper(operator) + "/" + rest, "farebeat/v1/%68" + operator[1:] + "/" + rest, "farebeat/v1/%6" + operator + "/" + rest,
		"farebeat%2Fv1%2F" + operator + "%2F" + rest, "farebeat/v1//" + operator + "/" + rest, "farebeat/v1/./" + operator + "/" + rest, "farebeat/v1/" + operator + " /" + rest,
		"farebeat/v1/" + operator + "\u200b/" + rest, "$SYS/" + topic, "$share/g/" + topic, "$queue/" + topic, "farebeat/v2/" + operator + "/" + rest,
	}
}

// TestNothingLeaksBetweenOperators runs a broker for each of some operators whose names are near each other. Everybody of the first, whose users
// are called as those of the others, tries every topic, many filters and each way in.
func TestNothingLeaksBetweenOperators(t *testing.T) {
	mine, tree, secret := city(t, "hart")
	watch := newWatch(t, mine, tree, secret)
	writer := dial(t, mine, fleetID, connect{id: "end"})
	for _, name := range []string{"hart2", "ha"} {
		theirs, their, theirSecret := city(t, name)
		table := documentedRights(t, their)
		writers := map[string]*raw{}
		for _, role := range []topics.Role{topics.RoleFleet, topics.RoleOperator, topics.RoleSimulator} {
			writers[string(role)] = dial(t, theirs, topics.Identity{Role: role, Name: "writer"}, connect{id: "writer " + string(role)})
		}
		publishAll := func(payload string) {
			for _, r := range table {
				for _, role := range []string{"fleet", "operator", "simulator"} {
					if strings.Contains(r.may[role], "P") {
						writers[role].mustPublish(pub{r.topic, payload, r.QoS, r.Retain})
						break
					}
				}
			}
		}
		publishAll("retained of " + name)
		for _, u := range rolePlayers() {
			t.Run(name+"/"+u.Name, func(t *testing.T) {
				c := newCitizen(t, mine, u.Name, secret)
				end := "the end of " + u.Name + " at " + name
				invade(t, mine, c, their, table)
				publishAll("live of " + name)
				c.subscribe(tree.Root() + "fleet")
				writer.mustPublish(pub{tree.Root() + "fleet", end, 1, true})
				c.until(tree.Root()+"fleet", end)
				watch.until(tree.Root()+"fleet", end)
				if got := watch.got("intruder"); len(got) > 0 {
					t.Errorf("delivered on %q", got)
				}
				for topic, payloads := range c.all() {
					if !strings.HasPrefix(topic, tree.Root()) {
						t.Errorf("%s came: %q", topic, payloads)
					}
				}
				inTheirs(t, theirs, u, secret, theirSecret)
			})
		}
	}
}

// invade tries to publish on and to subscribe to what is another operator's.
func invade(t *testing.T, b *broker.Broker, c *citizen, their topics.Tree, table []documentedRight) {
	before := b.Stats()
	tries := 0
	for i, r := range table {
		tries++
		c.publish(pub{r.topic, "intruder", r.QoS, r.Retain})
		disguised := disguises(r.topic, their.Operator())
		disguise := disguised[1+i%(len(disguised)-1)]
		if !strings.HasPrefix(disguise, "$SYS") { // Mochi drops those without a question
			tries++
		}
		c.publish(pub{disguise, "intruder", 0, false})
		if err := c.tryWill(r, c.client); err == nil {
			t.Errorf("a will on %s is taken", r.topic)
		}
	}
	if s := b.Stats(); s.RefusedWrite-before.RefusedWrite+s.RefusedForm-before.RefusedForm != uint64(tries) || s.Retained != before.Retained || s.Heartbeats != before.Heartbeats {
		t.Errorf("%d publishes: %+v before, %+v after", tries, before, s)
	}

	asked := map[string]bool{}
	for _, r := range table {
		for _, f := range []string{r.topic, r.every} {
			for _, d := range disguises(f, their.Operator()) {
				asked[d] = true
			}
		}
	}
	levels := []string{"+", "#", "farebeat", "v1", "hart", their.Operator(), "vehicle", "01216", "fault", "ticket", "fleet", "", "..", "%2B"}
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.SampledFrom(levels), 1, 7).Draw(t, "levels")
		if i := slices.Index(list, "#"); i >= 0 {
			list = list[:i+1]
		}
		f := rapid.SampledFrom([]string{"", "farebeat/v1/", their.Root(), "$share/g/" + their.Root(), "/" + their.Root()}).Draw(t, "start") + strings.Join(list, "/")
		if f != "" && !strings.HasPrefix(f+"/", "farebeat/v1/hart/") {
			asked[f] = true
		}
	})
	var filters []string
	for f := range asked {
		filters = append(filters, f)
	}
	for chunk := range slices.Chunk(filters, 200) {
		for f, code := range c.subscribe(chunk...) {
			if code != 0x80 {
				t.Errorf("subscribe %s: %#x", f, code)
			}
		}
	}
	if len(filters) < 300 {
		t.Errorf("only %d filters", len(filters))
	}
}

// tryWill connects once more with a will on a topic, and goes back to the client it had.
func (c *citizen) tryWill(r documentedRight, client paho.Client) error {
	defer func() { c.client = client }()
	return c.tryConnect(func(o *paho.ClientOptions) { o.SetClientID("will").SetWill(r.topic, "intruder", r.QoS, r.Retain) })
}

// inTheirs tries the other operator's broker with the name that both have.
func inTheirs(t *testing.T, b *broker.Broker, u broker.User, secret, theirSecret string) {
	stranger := &citizen{t: t, b: b, user: u.Name, secret: secret, received: map[string][]string{}}
	if err := stranger.tryConnect(nil); err == nil {
		t.Error("the password of one operator is good at another's broker")
		stranger.bye()
	}
	stranger.secret = theirSecret
	if err := stranger.tryConnect(nil); err != nil {
		t.Errorf("the other %s: %v", u.Name, err)
	} else {
		stranger.bye()
	}
}
