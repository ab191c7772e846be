package topics_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

var update = flag.Bool("update", false, "write docs/topics.md, docs/acl.md and docs/asyncapi.json anew")

// TestDocuments fails when the documents differ from what Specs and the schemas say.
func TestDocuments(t *testing.T) {
	contract := asyncAPI(t)
	for file, want := range map[string][]byte{
		"../docs/topics.md":     []byte(topicsMD(t)),
		"../docs/asyncapi.json": contract,
		"asyncapi.json":         contract, // embedded
	} {
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the topic table and the schemas say (%v); run: go test ./topics -run TestDocuments -update", file, err)
		}
	}
}

func TestAsyncAPIDocument(t *testing.T) {
	doc := topics.AsyncAPIDocument()
	spec, _ := topics.Lookup(topics.AsyncAPI)
	if len(doc) > spec.MaxBytes {
		t.Errorf("%d bytes, at most %d fit its topic", len(doc), spec.MaxBytes)
	}
	whole := object(t, doc)
	if whole["asyncapi"] != "3.0.0" || len(whole["channels"].(map[string]any)) != len(topics.Specs()) {
		t.Errorf("asyncapi %v, %d channels for %d topics", whole["asyncapi"], len(whole["channels"].(map[string]any)), len(topics.Specs()))
	}
	if refs := resolve(t, whole, whole); refs < 3*len(topics.Specs()) {
		t.Errorf("only %d references", refs)
	}
	clear(doc)
	if topics.AsyncAPIDocument()[0] != '{' {
		t.Error("the caller changed the embedded document")
	}
}

// resolve checks that each reference below node leads somewhere, and counts them.
func resolve(t *testing.T, whole map[string]any, node any) (refs int) {
	t.Helper()
	switch n := node.(type) {
	case map[string]any:
		if ref, ok := n["$ref"].(string); ok {
			var at any = whole
			for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				at = at.(map[string]any)[step]
				if at == nil {
					t.Fatalf("%s leads nowhere", ref)
				}
			}
			refs++
		}
		for _, v := range n {
			refs += resolve(t, whole, v)
		}
	case []any:
		for _, v := range n {
			refs += resolve(t, whole, v)
		}
	}
	return refs
}

// object reads JSON and keeps numbers as they are.
func object(t testing.TB, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func indented(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// example returns a good payload of a topic and the address that it is sent to.
func example(t testing.TB, k topics.Kind) ([]byte, topics.Address) {
	t.Helper()
	a := topics.Address{
		Kind: k, Machine: "V-0042", Vehicle: "01216", Route: "36", Fault: "01JDB70QX2", Source: "driver-app", Command: "c-20261122-0003",
		Severity: "major", EventKind: "machine_silent", Batch: topics.BatchID{Epoch: 3, First: 2, Last: 2},
	}
	files := map[topics.Kind]string{
		topics.Heartbeat: "heartbeat/full", topics.MachineState: "machine-state/full", topics.Gateway: "gateway/full", topics.VehicleFault: "vehicle-fault/collect",
		topics.Recovery: "recovery/full", topics.Transactions: "transactions/one", topics.Receipt: "receipt/gaps", topics.RouteOnline: "route-online/full",
		topics.RouteFault: "route-fault/open", topics.CommonFault: "common-fault/network", topics.Report: "report/machine", topics.Command: "command/collect", topics.CommandResult: "command-result/finished",
		topics.Event: "event/opened", topics.Fleet: "fleet/online",
	}
	if files[k] == "" {
		return nil, a
	}
	b, err := os.ReadFile(filepath.Join("..", "schemas", "testdata", "good", files[k]+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return b, a
}

// camel makes machine/heartbeat the name machineHeartbeat.
func camel(k topics.Kind) string {
	parts := strings.Split(string(k), "/")
	for i, p := range parts[1:] {
		parts[i+1] = strings.ToUpper(p[:1]) + p[1:]
	}
	return strings.Join(parts, "")
}

func levelDocs() map[string]string {
	return map[string]string{
		"operator": "Operator, as configured.", "machine": "Machine id.", "vehicle": "GTFS-realtime vehicle id.", "route": "GTFS route_id.",
		"batch": "{epoch}-{first}-{last}, whole numbers from 1.", "fault": "Fault id.", "source": "Who reports, such as driver-app.",
		"command": "Command id.", "severity": "info, minor, major or critical.", "kind": "Kind of fault, such as machine_silent.",
	}
}

type node = map[string]any

func ref(path ...string) node { return node{"$ref": "#/" + strings.Join(path, "/")} }

func asyncAPI(t testing.TB) []byte {
	t.Helper()
	channels, operations, messages, components := node{}, node{}, node{}, node{}
	for _, name := range schemas.Names() {
		components[name] = inline(object(t, schemas.Schema(name)))
	}
	for _, s := range topics.Specs() {
		name := camel(s.Kind)
		message := node{"title": string(s.Kind), "contentType": "application/json", "payload": node{"type": "object"}}
		if payload, _ := example(t, s.Kind); payload != nil {
			message["payload"] = ref("components", "schemas", s.Schema)
			message["examples"] = []any{node{"payload": object(t, payload)}}
		}
		messages[name] = message
		address, parameters := "farebeat/v1/{operator}/"+s.Pattern, node{}
		for level := range strings.SplitSeq(address, "/") {
			if id := strings.Trim(level, "{}"); id != level {
				parameters[id] = node{"description": levelDocs()[id]}
			}
		}
		channels[name] = node{
			"address": address, "description": s.Doc, "parameters": parameters, "messages": node{name: ref("components", "messages", name)},
			"x-max-bytes": s.MaxBytes, "x-retain": s.Retain,
		}
		for _, o := range []struct {
			prefix, action string
			roles          []topics.Role
		}{{"write", "send", s.Writers}, {"read", "receive", s.Readers}} {
			operations[o.prefix+strings.ToUpper(name[:1])+name[1:]] = node{
				"action": o.action, "channel": ref("channels", name), "messages": []any{ref("channels", name, "messages", name)}, "x-roles": o.roles,
				"bindings": node{"mqtt": node{"qos": s.QoS, "retain": s.Retain, "bindingVersion": "0.2.0"}},
			}
		}
	}
	return indented(t, node{
		"asyncapi": "3.0.0",
		"info": node{
			"title": "Farebeat", "version": "1.0.0", "license": node{"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
			"description": "Presence of payment machines on public transport, and the transactions that they hold. x-roles says who may send and receive on a channel. " +
				"Identifiers in topics are percent-encoded; unknown members of a payload are to be ignored.",
		},
		"defaultContentType": "application/json",
		"servers": node{"broker": node{
			"host": "{host}", "protocol": "mqtt", "protocolVersion": "3.1.1", "description": "The operator's broker.",
			"variables": node{"host": node{"description": "Host and port.", "default": "localhost:1883"}},
		}},
		"channels": channels, "operations": operations, "components": node{"messages": messages, "schemas": components},
	})
}

// inline makes a schema part of a document: without a name of its own, references within the document.
func inline(schema node) node {
	delete(schema, "$schema")
	delete(schema, "$id")
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case node:
			if to, ok := v["$ref"].(string); ok {
				v["$ref"] = "#/components/schemas/" + strings.TrimPrefix(to, "urn:farebeat:v1:")
			}
			for _, below := range v {
				walk(below)
			}
		case []any:
			for _, below := range v {
				walk(below)
			}
		}
	}
	walk(schema)
	return schema
}

func topicsMD(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(docHead)
	b.WriteString("| Topic after `farebeat/v1/{operator}/` | QoS | Retained | Written by | Read by | At most |\n|---|---|---|---|---|---|\n")
	for _, s := range topics.Specs() {
		retained := "no"
		if s.Retain {
			retained = "yes"
		}
		fmt.Fprintf(&b, "| [`%s`](#%s) | %d | %s | %s | %s | %d B |\n", s.Pattern, anchor(s.Kind), s.QoS, retained, roles(s.Writers), roles(s.Readers), s.MaxBytes)
	}
	b.WriteString(docRules)
	for _, s := range topics.Specs() {
		describe(t, &b, s)
	}
	b.WriteString("## transaction record\n\n")
	members(&b, object(t, schemas.Schema(schemas.NameTransaction)), "")
	b.WriteString("\n" + docRecord)
	return b.String()
}

func anchor(k topics.Kind) string { return strings.ReplaceAll(string(k), "/", "") }

func roles(all []topics.Role) string {
	words := make([]string, len(all))
	for i, r := range all {
		words[i] = string(r)
	}
	return strings.Join(words, ", ")
}

// describe writes the section of one topic.
func describe(t testing.TB, b *strings.Builder, s topics.Spec) {
	t.Helper()
	fmt.Fprintf(b, "## %s\n\n%s\n\n", s.Kind, s.Doc)
	payload, address := example(t, s.Kind)
	if payload == nil {
		b.WriteString("The payload is the file `docs/asyncapi.json`.\n\n")
		return
	}
	schema := object(t, schemas.Schema(s.Schema))
	fmt.Fprintf(b, "JSON Schema: `schemas/json/%s.json`. %s\n\n", s.Schema, schema["description"])
	members(b, schema, "")
	tree, err := topics.New("hart")
	if err != nil {
		t.Fatal(err)
	}
	topic, err := tree.Build(address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "\nExample, on `%s`:\n\n```json\n%s\n```\n\n", topic, bytes.TrimSpace(payload))
}

// members writes a table of an object's members, those of nested objects below them.
func members(b *strings.Builder, schema node, path string) {
	if path == "" {
		b.WriteString("| Member | Type | Required | Meaning |\n|---|---|---|---|\n")
	}
	properties := schema["properties"].(node)
	names := make([]string, 0, len(properties))
	for name := range properties {
		names = append(names, name)
	}
	required, _ := schema["required"].([]any)
	rank := func(name string) int { // required ones first, in the schema's order
		if i := slices.Index(required, any(name)); i >= 0 {
			return i
		}
		return len(required)
	}
	slices.SortFunc(names, func(x, y string) int {
		if d := rank(x) - rank(y); d != 0 {
			return d
		}
		return strings.Compare(x, y)
	})
	for _, name := range names {
		p := properties[name].(node)
		must := ""
		if rank(name) < len(required) {
			must = "yes"
		}
		what, _ := p["description"].(string)
		what = strings.TrimSuffix(what, " RFC 3339; senders write UTC with milliseconds. Years 1970 to 9999.") // the rules say so
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", path, name, typeOf(p), must, strings.ReplaceAll(what, "|", "\\|"))
		if p["type"] == "object" {
			members(b, p, path+name+".")
		}
		if items, ok := p["items"].(node); ok && items["type"] == "object" {
			members(b, items, path+name+"[].")
		}
	}
}

// typeOf words the type and bounds of a member.
func typeOf(p node) string {
	switch {
	case p["const"] != nil:
		return fmt.Sprintf("`%q`", p["const"])
	case p["enum"] != nil:
		var words []string
		for _, v := range p["enum"].([]any) {
			words = append(words, fmt.Sprintf("`%v`", v))
		}
		return strings.Join(words, ", ")
	case p["format"] == "date-time":
		return "time"
	case p["format"] == "date":
		return "date"
	case p["type"] == "array":
		return fmt.Sprintf("array, at most %v", p["maxItems"])
	case p["type"] == "integer" || p["type"] == "number":
		return fmt.Sprintf("%v, %v to %v", p["type"], p["minimum"], p["maximum"])
	case p["maxLength"] != nil && p["minLength"] != nil:
		return fmt.Sprintf("string, %v to %v characters", p["minLength"], p["maxLength"])
	case p["maxLength"] != nil:
		return fmt.Sprintf("string, at most %v characters", p["maxLength"])
	case p["type"] == nil:
		return "any"
	}
	return fmt.Sprint(p["type"])
}

//nolint:misspell // mosquitto is what the program is called
const docHead = `# Topics and messages

<!-- Generated from topics.Specs and schemas/json: go test ./topics -run TestDocuments -update -->

This is Farebeat's public interface. The same contract for programs is [asyncapi.json](asyncapi.json) (AsyncAPI 3.0), which the
broker also has as the retained message of ` + "`farebeat/v1/{operator}/meta/asyncapi`" + `. The transport is MQTT 3.1.1.

## Begin here

Ask the operator for the broker's address, the operator's name in the topics (` + "`hart`" + ` below), and a user with its role. Then:

` + "```sh" + `
# Which machines are stranded, and what is done about it: what stands now, then every change
mosquitto_sub -h broker.example.org -p 8883 --capath /etc/ssl/certs -u bank -P "$SECRET" -q 1 -v \
  -t 'farebeat/v1/hart/vehicle/+/fault/#'

# Machines online and expected on every route; faults of routes
mosquitto_sub -h broker.example.org -p 8883 --capath /etc/ssl/certs -u bank -P "$SECRET" -q 1 -v \
  -t 'farebeat/v1/hart/route/#'

# Only what changes, and only what is critical; -c -i keeps the session, so that nothing is missed while you are away
mosquitto_sub -h broker.example.org -p 8883 --capath /etc/ssl/certs -u bank -P "$SECRET" -q 1 -c -i bank-alerts \
  -t 'farebeat/v1/hart/event/critical/#'

# Report a fault by hand (role operator)
mosquitto_pub -h broker.example.org -p 8883 --capath /etc/ssl/certs -u dispatcher -P "$SECRET" -q 1 \
  -t farebeat/v1/hart/report/hotline \
  -m '{"id":"r-8","at":"2026-11-22T23:41:09.120Z","route":"36","text":"No bus takes cards.","by":"hotline"}'

# A machine says that it is alive (role machine, user of machine V-0042)
mosquitto_pub -h broker.example.org -p 8883 --capath /etc/ssl/certs -u V-0042 -P "$SECRET" -q 0 \
  -t farebeat/v1/hart/machine/V-0042/heartbeat \
  -m '{"seq":1,"boot":"b7","at":"2026-11-22T23:41:09.120Z","state":"running"}'
` + "```" + `

What you see when the broker refuses you (the words of ` + "`mosquitto_sub` and `mosquitto_pub`" + ` in brackets):

| Refused | On the wire | Likely reason |
|---|---|---|
| the connection | CONNACK with return code 5, then the end of the connection ("Connection Refused: not authorised") | user name or password is wrong, the role is not admitted, or the last will is none that the role may write |
| a subscription | 0x80 in the SUBACK in place of the granted QoS ("All subscription requests were denied"); the connection and other filters stand | the filter matches more than the role may read: a third party's ` + "`#`" + ` is refused, the filters above are not |
| a publish with QoS 1 | no PUBACK: the broker closes the connection, some libraries see a DISCONNECT before ("A network protocol error occurred"). With MQTT 5: a PUBACK with a reason code from 0x80 on, such as 0x87, not authorized | the role may not write there, or QoS, retain flag or size are not those of the table |
| a publish with QoS 0 | nothing at all. It is dropped, and the connection stands | the same. To try whether a machine may send its heartbeats, send one with QoS 1: a PUBACK says yes |
| the payload | nothing: a PUBACK says that the message is on its topic, not that its content is right | it does not follow the schema; the fleet service does not act on it |

The broker does not say more to a stranger. The operator finds the reason in the log of ` + "`farebeat serve`" + `, once per writer and minute: ` + "`connection refused`, `subscription refused`, `publish refused`, `message refused`" + `.
A client that is closed again and again after a publish must not repeat it as it is: look at the table first.

## Table

`

const docRules = `
A machine writes below its own id only, a gateway below its own vehicle only, and a gateway reads its own vehicle's topics only. A third party
also reads what the operator granted it. ` + "`admin`" + ` may what ` + "`operator`" + ` may; the rest of what it may is in the console. ` + "`simulator`" + ` speaks for any machine and gateway and exists in test cities only.
[acl.md](acl.md) is the whole table of who may do what.

## Rules

- **Filters** end with ` + "`#`" + `: new levels are only ever added at the end of a topic.
- **Identifiers** in topics have 1 to 64 characters. Letters, digits, ` + "`-`, `_`, `.` and `~`" + ` stand for themselves; each byte of all others
  (UTF-8) is ` + "`%`" + ` and two capital hexadecimal digits: route ` + "`Línea 5/N`" + ` is ` + "`L%C3%ADnea%205%2FN`" + `. No other encoding is accepted, so that one thing has one
  topic. ` + "`+`, `#`, `$`" + ` and control characters may not be in an identifier. A topic has at most 8 levels and 256 bytes. In payloads identifiers are plain.
- **QoS**: write with the QoS of the table; a publish with less is refused. Read QoS 1 topics with QoS 1; a message can come twice.
- **Retained** means: the state that a newcomer needs now, never a queue. Write with the retain flag exactly where the table says so. Every retained payload carries
  ` + "`as_of`" + `. What is over is cleared with an empty retained message: take an empty payload as "this no longer stands".
- **Last will** of a gateway and of the fleet goes to the same retained topic as their online message. Ignore a death whose ` + "`session`" + ` is not that of the last birth.
- **Twice is once**: deduplicate faults and events by ` + "`(source, id)`" + `, reports and commands by ` + "`id`" + `, transactions by ` + "`(machine, epoch, seq)`" + `.
- **Unknown members** are to be ignored; they come with later versions. A required member that is missing, one that is null, there twice or ill-typed, a number out of range, a payload that is
  not UTF-8 or longer than the table allows: the message is refused, counted and changes nothing.
- **Times** are RFC 3339, years 1970 to 9999; writers use UTC and milliseconds. **Money** is a whole number of minor units of an ISO 4217 currency: 200 with USD is 2.00 dollars.
- A device's own topic never names its route, because a bus serves several a day: route, trip and vehicle are in the payload.

`

const docRecord = `A record's bytes are what counts: the machine writes them once, and everyone else carries them unchanged. ` + "`prev`" + ` chains a record to the one before it, ` + "`mac`" + ` must be the last member:

` + "```text" + `
prev    = base64url(SHA-256(bytes of the record before))
          base64url(SHA-256("farebeat v1 genesis" 00 machine 00 epoch as little-endian uint32)) for seq 1
mac     = base64url(HMAC-SHA-256(key of the machine, the record's bytes before ,"mac":))
receipt = base64url(HMAC-SHA-256(key of the machine, "farebeat v1 receipt" 00 machine 00,
          then as little-endian uint32: epoch, complete_to, highest, number of gaps, both ends of each gap))
` + "```" + `

base64url is without padding; 00 is one zero byte. Records and receipts to check an implementation against are in ` + "`schemas/testdata/good`" + `; their key is the ASCII text
` + "`golden key of machine V-0042, 32`" + `.
`
