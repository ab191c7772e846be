package broker_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/topics"
)

// citizen is a real paho client of a user, with what it received.
type citizen struct {
	t      testing.TB
	b      *broker.Broker
	id     string
	user   string
	secret string
	client paho.Client

	mu       sync.Mutex
	received map[string][]string // payloads by topic
	news     chan struct{}
}

func newCitizen(t testing.TB, b *broker.Broker, user, secret string) *citizen {
	t.Helper()
	c := &citizen{t: t, b: b, id: "of " + user, user: user, secret: secret, received: map[string][]string{}, news: make(chan struct{}, 1)}
	c.connect()
	t.Cleanup(c.bye)
	return c
}

// newWatch is a client of the user fleet that hears everything.
func newWatch(t testing.TB, b *broker.Broker, tree topics.Tree, secret string) *citizen {
	t.Helper()
	c := &citizen{t: t, b: b, id: "watch", user: "fleet", secret: secret, received: map[string][]string{}, news: make(chan struct{}, 1)}
	c.connect()
	t.Cleanup(c.bye)
	c.subscribe(tree.Root() + "#")
	return c
}

// patience is how long a test waits for what must come; it never waits for what must not.
const patience = time.Minute

func (c *citizen) tryConnect(change func(*paho.ClientOptions)) error {
	o := paho.NewClientOptions().AddBroker("tcp://" + c.b.Addr("tcp")).SetClientID(c.id).SetUsername(c.user).SetPassword(c.secret)
	o.SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(patience)
	o.SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		c.mu.Lock()
		c.received[m.Topic()] = append(c.received[m.Topic()], string(m.Payload()))
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
	})
	if change != nil {
		change(o)
	}
	client := paho.NewClient(o)
	token := client.Connect()
	if !token.WaitTimeout(patience) {
		c.t.Fatalf("%s: no answer to CONNECT", c.user)
	}
	if token.Error() == nil {
		c.client = client
	}
	return token.Error()
}

func (c *citizen) connect() {
	c.t.Helper()
	if err := c.tryConnect(nil); err != nil {
		c.t.Fatalf("%s: %v", c.user, err)
	}
}

func (c *citizen) bye() { c.client.Disconnect(0) }

// publish reports whether the broker acknowledged; a refusal ends the connection, and it connects again. For QoS 0 it is true.
func (c *citizen) publish(p pub) bool {
	c.t.Helper()
	token := c.client.Publish(p.topic, p.qos, p.retain, p.payload)
	if !token.WaitTimeout(patience) {
		c.t.Fatalf("%s: neither PUBACK nor the end after a publish on %s", c.user, p.topic)
	}
	if token.Error() == nil {
		if p.qos == 0 { // an answer to what comes after it says that the broker is through with it
			if u := c.client.Unsubscribe("none"); !u.WaitTimeout(patience) || u.Error() != nil {
				c.t.Fatalf("%s after %s: %v", c.user, p.topic, u.Error())
			}
		}
		return true
	}
	c.connect()
	return false
}

// subscribe asks for filters at once and returns the reason code of each.
func (c *citizen) subscribe(filters ...string) map[string]byte {
	c.t.Helper()
	ask := map[string]byte{}
	for _, f := range filters {
		ask[f] = 1
	}
	token := c.client.SubscribeMultiple(ask, nil).(*paho.SubscribeToken)
	if !token.WaitTimeout(patience) || token.Error() != nil {
		c.t.Fatalf("%s: subscribe %q: %v", c.user, filters, token.Error())
	}
	return token.Result()
}

// until waits for a payload on a topic; what was sent to it before has come by then.
func (c *citizen) until(topic, payload string) {
	c.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		c.mu.Lock()
		got := slices.Contains(c.received[topic], payload)
		c.mu.Unlock()
		if got {
			return
		}
		select {
		case <-c.news:
		case <-timer.C:
			c.t.Fatalf("%s: %s did not come on %s", c.user, payload, topic)
		}
	}
}

// got are the topics on which a payload came.
func (c *citizen) got(payload string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for topic, all := range c.received {
		if slices.Contains(all, payload) {
			list = append(list, topic)
		}
	}
	slices.Sort(list)
	return list
}

func (c *citizen) all() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.received)
}

// documentedRight is a row of docs/acl.md with an example of its topic.
type documentedRight struct {
	topics.Spec
	topic string            // an example
	every string            // the filter for all ids at once
	may   map[string]string // by column: letters of P, S, W, R
}

// documentedRights reads docs/acl.md, which a test of package topics compares with a table by hand.
func documentedRights(t testing.TB, tree topics.Tree) (list []documentedRight) {
	t.Helper()
	text, err := os.ReadFile("../docs/acl.md")
	if err != nil {
		t.Fatal(err)
	}
	specs := map[string]topics.Spec{}
	for _, s := range topics.Specs() {
		specs[s.Pattern] = s
	}
	var columns []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(strings.TrimSpace(line), "\\", ""), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if columns == nil {
			columns = cells
			continue
		}
		r := documentedRight{Spec: specs[strings.Trim(cells[0], "`")], may: map[string]string{}}
		a := topics.Address{
			Kind: r.Kind, Machine: "01216-1", Vehicle: "01216", Route: "36", Fault: "F-1", Source: "hotline", Command: "c-7", Severity: "major",
			EventKind: "machine_silent", Batch: topics.BatchID{Epoch: 3, First: 1, Last: 200},
		}
		if cells[1] == "another's" {
			a.Machine, a.Vehicle = "01217-1", "01217"
		}
		var err, err2 error
		r.topic, err = tree.Build(a)
		r.every, err2 = tree.Filter(topics.Address{Kind: r.Kind})
		if err != nil || err2 != nil || len(cells) != len(columns) {
			t.Fatalf("%q: %v, %v", line, err, err2)
		}
		for i, name := range columns[2:] {
			r.may[name] = cells[i+2]
		}
		list = append(list, r)
	}
	if len(list) < 2*len(topics.Specs())-10 {
		t.Fatalf("docs/acl.md has %d rows", len(list))
	}
	return list
}

// rolePlayers are a user for each column of docs/acl.md but nobody.
func rolePlayers() []broker.User {
	return []broker.User{
		{Name: "machine", Role: topics.RoleMachine, ID: "01216-1"},
		{Name: "gateway", Role: topics.RoleGateway, ID: "01216"},
		{Name: "fleet", Role: topics.RoleFleet},
		{Name: "operator", Role: topics.RoleOperator},
		{Name: "admin", Role: topics.RoleAdmin},
		{Name: "viewer", Role: topics.RoleViewer},
		{Name: "third_party", Role: topics.RoleThirdParty},
		{Name: "third_party_with_grants", Role: topics.RoleThirdParty, Grants: []string{"vehicle/+/transactions/#", "machine/01216-1/state", "vehicle/+/ticket/#"}},
		{Name: "simulator", Role: topics.RoleSimulator},
	}
}

// city runs a broker of an operator whose users are rolePlayers, all with one secret.
func city(t testing.TB, operator string) (*broker.Broker, topics.Tree, string) {
	t.Helper()
	tree, err := topics.New(operator)
	if err != nil {
		t.Fatal(err)
	}
	secret, hash := broker.NewSecret()
	list := rolePlayers()
	for i := range list {
		list[i].Hash = hash
	}
	users, err := broker.NewUsers(list)
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, broker.Options{
		Tree: tree, Users: users, AllowSimulator: true, Listeners: []broker.Listener{{Name: "tcp", Kind: "tcp", Address: "127.0.0.1:0"}},
	})
	return b, tree, secret
}

// TestTheWholeTableOverTheNetwork has a real client of each role try each action on each topic, of its own and of another's ids.
func TestTheWholeTableOverTheNetwork(t *testing.T) {
	b, tree, secret := city(t, "tampa")
	table := documentedRights(t, tree)
	watch := newWatch(t, b, tree, secret)
	writers := map[string]*raw{}
	for _, role := range []topics.Role{topics.RoleFleet, topics.RoleOperator, topics.RoleSimulator} {
		writers[string(role)] = dial(t, b, topics.Identity{Role: role, Name: "writer"}, connect{id: "writer " + string(role)})
	}
	for _, u := range rolePlayers() {
		column := strings.ReplaceAll(u.Name, "_with_", " with ")
		t.Run(column, func(t *testing.T) {
			play(t, b, newCitizen(t, b, u.Name, secret), column, table, watch, writers)
		})
	}
	t.Run("nobody", func(t *testing.T) {
		for _, who := range []*citizen{{t: t, b: b}, {t: t, b: b, user: "stranger", secret: secret}, {t: t, b: b, user: "fleet", secret: "guess"}} {
			if err := who.tryConnect(nil); err == nil {
				t.Errorf("user %q with password %.8q is in", who.user, who.secret)
			}
		}
		for _, r := range table {
			if r.may["nobody"] != "" {
				t.Errorf("%s: nobody may %s", r.topic, r.may["nobody"])
			}
		}
	})
}

// play tries everything as one role.
func play(t *testing.T, b *broker.Broker, c *citizen, column string, table []documentedRight, watch *citizen, writers map[string]*raw) {
	end := table[len(table)-2].topic // of the fleet, which everybody reads
	before := b.Stats()
	var may, might []string
	refused := uint64(0)
	for _, r := range table {
		if strings.Contains(r.may[column], "P") {
			may = append(may, r.topic)
		} else {
			refused++
		}
		if c.publish(pub{r.topic, "by " + column, r.QoS, r.Retain}) {
			might = append(might, r.topic)
		}
	}
	writers["fleet"].mustPublish(pub{end, "written by " + column, 1, true})
	watch.until(end, "written by "+column)
	slices.Sort(may)
	if got := watch.got("by " + column); !slices.Equal(got, may) {
		t.Errorf("delivered from it: %q\nwant %q", got, may)
	}
	for _, topic := range might {
		if !slices.Contains(may, topic) && !strings.HasSuffix(topic, "/heartbeat") { // QoS 0 has no answer
			t.Errorf("a publish on %s was acknowledged", topic)
		}
	}
	after := b.Stats()
	if n := after.RefusedWrite - before.RefusedWrite; n != refused || after.RefusedForm != before.RefusedForm {
		t.Errorf("%d refusals of publishes counted, %d of their form, want %d", n, after.RefusedForm-before.RefusedForm, refused)
	}

	asked, denied := map[string]bool{}, uint64(0) // all tickets may be asked for by two rows
	for _, r := range table {
		asked[r.topic] = strings.Contains(r.may[column], "S")
		if r.every != r.topic {
			asked[r.every] = strings.Contains(r.may[column], "W")
		}
	}
	root := strings.TrimSuffix(end, "fleet")
	all := column == "fleet" || column == "operator" || column == "admin" || column == "viewer"
	asked[root+"#"], asked["#"], asked["+/#"], asked["$SYS/#"], asked["$share/g/"+root+"fleet"] = all, false, false, false, false
	for f, code := range c.subscribe(slices.Sorted(maps.Keys(asked))...) {
		if want := map[bool]byte{true: 1, false: 0x80}[asked[f]]; code != want {
			t.Errorf("subscribe %s: %#x, want %#x", f, code, want)
		}
		if !asked[f] {
			denied++
		}
	}
	if n := b.Stats().RefusedRead - after.RefusedRead; n != denied {
		t.Errorf("%d refusals of subscriptions counted, want %d", n, denied)
	}

	var gets []string
	for _, r := range table {
		if strings.Contains(r.may[column], "R") {
			gets = append(gets, r.topic)
		}
		for _, name := range []string{"fleet", "operator", "simulator"} {
			if strings.Contains(r.may[name], "P") {
				writers[name].mustPublish(pub{r.topic, "to " + column, r.QoS, r.Retain})
				break
			}
		}
	}
	writers["fleet"].mustPublish(pub{end, "end of " + column, 1, true})
	c.until(end, "end of "+column)
	slices.Sort(gets)
	if got := c.got("to " + column); !slices.Equal(got, gets) {
		t.Errorf("received: %q\nwant %q", got, gets)
	}
	for topic, payloads := range c.all() { // what was retained, too
		if !slices.Contains(gets, topic) {
			t.Errorf("%s came: %q", topic, payloads)
		}
	}
	if t.Failed() {
		t.Logf("%+v", b.Stats())
	}
}
