package ors

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farebeat/farebeat/edge/ble"
	"github.com/farebeat/farebeat/schemas"
)

const vectorsFile = "../../docs/ble-vectors.json"

// vectors is the file for vendors of machines. Bytes are hexadecimal; values of one message are a list.
type vectors struct {
	Comment          string   `json:"comment"`
	Machine          string   `json:"machine"`
	MasterKey        string   `json:"master_key"`
	MachineKey       string   `json:"machine_key"`
	Advertising      string   `json:"advertising_data"`
	ScanResponse     string   `json:"scan_response"`
	Info             string   `json:"info"`
	TicketNonce      string   `json:"ticket_nonce"`
	TicketSecret     string   `json:"ticket_secret"`
	TicketCounter    uint64   `json:"ticket_counter"`
	TicketIssued     int64    `json:"ticket_issued_ms"`
	TicketExpires    int64    `json:"ticket_expires_ms"`
	TicketVehicle    string   `json:"ticket_vehicle"`
	TicketReason     string   `json:"ticket_reason"`
	SealedTicket     string   `json:"sealed_ticket"`
	GatewayEphemeral string   `json:"gateway_ephemeral_private_key"`
	MachineEphemeral string   `json:"machine_ephemeral_private_key"`
	Hello            string   `json:"hello"`
	HelloMTU23       []string `json:"hello_values_mtu_23"`
	Welcome          string   `json:"welcome"`
	Refused          string   `json:"refused_expired"`
	StatusRequest    string   `json:"status_request_body"`
	StatusSealed     string   `json:"status_request_sealed_counter_1"`
	StatusResponse   string   `json:"status_response_body"`
	StatusAnswer     string   `json:"status_response_sealed_counter_1"`
	ReceiptRequest   string   `json:"receipt_request_body"`
	ReceiptSealed    string   `json:"receipt_request_sealed_counter_2"`
	Record           string   `json:"record_body"`
	RecordSealed     string   `json:"record_sealed_counter_2"`
	RecordMTU23      []string `json:"record_values_mtu_23"`
	RecordMTU247     []string `json:"record_values_mtu_247"`
	Credit           string   `json:"credit_body"`
	CreditSealed     string   `json:"credit_sealed_counter_3"`
}

// unhex is for bytes of this file.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hexes(values [][]byte) []string {
	var list []string
	for _, v := range values {
		list = append(list, hex.EncodeToString(v))
	}
	return list
}

// repeat is a key or nonce of one byte.
func repeat(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// makeVectors makes the file's content with the production code's encoders.
func makeVectors(t *testing.T) vectors {
	t.Helper()
	v := vectors{
		Comment: "Offline Record Service version 1, see ble.md. Bytes in hexadecimal.", Machine: "1216-1", MasterKey: hex.EncodeToString(repeat(0x11, 32)),
		TicketNonce: hex.EncodeToString(repeat(0x22, 12)), TicketSecret: hex.EncodeToString(repeat(0x33, 32)), TicketCounter: 1_795_390_869_120,
		TicketIssued: 1_795_390_869_120, TicketExpires: 1_795_477_269_120, TicketVehicle: "1216", TicketReason: "f-81",
		GatewayEphemeral: hex.EncodeToString(repeat(0x44, 32)), MachineEphemeral: hex.EncodeToString(repeat(0x55, 32)),
	}
	key, err := hkdf.Key(sha256.New, unhex(t, v.MasterKey), nil, "farebeat v1 machine "+v.Machine, 32)
	if err != nil {
		t.Fatal(err)
	}
	v.MachineKey = hex.EncodeToString(key)
	hint := ble.IDHint(v.Machine)
	advertising, scanResponse := ble.Advertisement{IDHint: hint, Pending: 2, State: ble.StatePending}.Encode()
	info := encodeInfo(hint)
	v.Advertising, v.ScanResponse, v.Info = hex.EncodeToString(advertising), hex.EncodeToString(scanResponse), hex.EncodeToString(info)
	sealed, err := schemas.SealTicket(key, bytes.NewReader(unhex(t, v.TicketNonce)), v.grant(t))
	if err != nil {
		t.Fatal(err)
	}
	v.SealedTicket = hex.EncodeToString(sealed)
	gateway, machine := v.handshake(t, info, sealed)
	v.Refused = hex.EncodeToString([]byte{typeRefused, byte(RefusedExpired)})

	status := Status{Machine: v.Machine, Epochs: []EpochRange{{2, 41, 41}, {3, 7, 9}}, UTC: time.UnixMilli(v.TicketIssued), ClockGen: 2, Pending: 2, PendingMinor: 480, Currency: "EUR"}
	receipt := schemas.EpochReceipt{Epoch: 3, CompleteTo: 4, Highest: 6, Gaps: [][2]uint32{{5, 5}}}
	receipt.MAC = schemas.ReceiptMAC(key, v.Machine, receipt)
	receipts, err := encodeReceipt([]schemas.EpochReceipt{receipt})
	if err != nil {
		t.Fatal(err)
	}
	record := encodeRecord(Record{Epoch: 3, Seq: 7, UTCMillis: v.TicketIssued, ClockGen: 2, Kind: KindTransaction, Payload: repeat('p', 200)})
	say := func(o *outgoing, kind byte, body []byte, bodyHex, sealedHex *string) []byte {
		m, err := o.message(kind, body)
		if err != nil {
			t.Fatal(err)
		}
		*bodyHex, *sealedHex = hex.EncodeToString(body), hex.EncodeToString(m)
		return m
	}
	say(gateway, typeRequest, []byte{1, 0, opStatus}, &v.StatusRequest, &v.StatusSealed)
	say(machine, typeResponse, append([]byte{1, 0, opResponse, opStatus, codeSuccess}, encodeStatus(status)...), &v.StatusResponse, &v.StatusAnswer)
	say(gateway, typeRequest, append([]byte{2, 0, opReceipt}, receipts...), &v.ReceiptRequest, &v.ReceiptSealed)
	m := say(machine, typeRecord, record, &v.Record, &v.RecordSealed)
	v.RecordMTU23, v.RecordMTU247 = hexes((&segmenter{}).cut(m, 20)), hexes((&segmenter{}).cut(m, 244))
	say(gateway, typeCredit, append(appendU32(nil, 8, 13), Window), &v.Credit, &v.CreditSealed)
	return v
}

func (v *vectors) grant(t *testing.T) schemas.TicketGrant {
	return schemas.TicketGrant{
		Machine: v.Machine, Vehicle: v.TicketVehicle, Reason: v.TicketReason, Counter: v.TicketCounter, Secret: [32]byte(unhex(t, v.TicketSecret)),
		IssuedAt: time.UnixMilli(v.TicketIssued).UTC(), ExpiresAt: time.UnixMilli(v.TicketExpires).UTC(),
	}
}

// handshake makes HELLO and WELCOME, and returns both ends' outgoing messages.
func (v *vectors) handshake(t *testing.T, info, sealed []byte) (gateway, machine *outgoing) {
	t.Helper()
	secret := [32]byte(unhex(t, v.TicketSecret))
	g, err := shake(true, bytes.NewReader(unhex(t, v.GatewayEphemeral)), info, sealed, secret)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _, err := g.WriteMessage(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := hello{Major, suiteNoise, sealed, first}.encode()
	v.Hello, v.HelloMTU23 = hex.EncodeToString(h), hexes((&segmenter{}).cut(h, 20))
	m, err := shake(false, bytes.NewReader(unhex(t, v.MachineEphemeral)), info, sealed, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := m.ReadMessage(nil, first); err != nil {
		t.Fatal(err)
	}
	welcome, theirs, ours, err := m.WriteMessage([]byte{typeWelcome, Major, Minor, suiteNoise}, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Welcome = hex.EncodeToString(welcome)
	return &outgoing{sealer: sealer{theirs.Cipher()}}, &outgoing{sealer: sealer{ours.Cipher()}}
}

func updating() bool {
	return flag.Lookup("update") != nil && flag.Lookup("update").Value.String() == "true"
}

// TestMain has the flag that writes the file anew: a change of its bytes is a change of the service.
func TestMain(m *testing.M) {
	flag.Bool("update", false, "write docs/ble-vectors.json")
	flag.Parse()
	os.Exit(m.Run())
}

func readVectors(t *testing.T) vectors {
	t.Helper()
	b, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVectors(t *testing.T) {
	made := makeVectors(t)
	if updating() {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorsFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(readVectors(t), made); diff != "" {
		t.Errorf("the code makes other bytes than the file has: %s", diff)
	}
}

// TestVectorsAreRead has the machine's and the gateway's decoders read the file.
func TestVectorsAreRead(t *testing.T) {
	v := readVectors(t)
	ad, err := ble.ParseAdvertisement(unhex(t, v.Advertising), unhex(t, v.ScanResponse))
	if err != nil || ad.IDHint != ble.IDHint(v.Machine) || ad.Pending != 2 || ad.State != ble.StatePending {
		t.Errorf("advertisement %+v, %v", ad, err)
	}
	if g, err := schemas.OpenTicket(unhex(t, v.MachineKey), v.Machine, unhex(t, v.SealedTicket)); err != nil || g != v.grant(t) {
		t.Errorf("ticket %+v, %v", g, err)
	}
	if _, err := decodeWelcome(unhex(t, v.Refused)); fmt.Sprint(err) != (&RefusedError{RefusedExpired}).Error() {
		t.Errorf("refused: %v", err)
	}
	// A real machine takes HELLO as it is on air.
	j := &keyed{journal: newJournal(3, 200), id: v.Machine, key: [32]byte(unhex(t, v.MachineKey))}
	port := &lastWord{}
	s := &server{store: j, gate: newGatekeeper(j), info: unhex(t, v.Info), port: port}
	for _, value := range v.HelloMTU23 {
		if err := s.take(t.Context(), input{ble.CharSession, unhex(t, value)}); err != nil {
			t.Fatal(err)
		}
	}
	if !s.open || j.mark.Counter != v.TicketCounter || len(port.message) != len(unhex(t, v.Welcome)) {
		t.Errorf("the machine did not open: mark %+v, answer % x", j.mark, port.message)
	}
	v.readSealed(t)
}

// readSealed opens what is sealed with the keys of the handshake, as both ends do.
func (v *vectors) readSealed(t *testing.T) {
	t.Helper()
	again := *v
	gateway, machine := again.handshake(t, unhex(t, v.Info), unhex(t, v.SealedTicket))
	control, credit := incoming{sealer: gateway.sealer}, incoming{sealer: gateway.sealer}
	data, responses := incoming{sealer: machine.sealer}, incoming{sealer: machine.sealer}
	for _, tc := range []struct {
		in     *incoming
		kind   byte
		sealed []string
		body   string
	}{
		{&control, typeRequest, hexes((&segmenter{}).cut(unhex(t, v.StatusSealed), 244)), v.StatusRequest},
		{&control, typeRequest, hexes((&segmenter{next: 1}).cut(unhex(t, v.ReceiptSealed), 244)), v.ReceiptRequest},
		{&credit, typeCredit, hexes((&segmenter{}).cut(unhex(t, v.CreditSealed), 244)), v.Credit},
		{&responses, typeResponse, hexes((&segmenter{}).cut(unhex(t, v.StatusAnswer), 244)), v.StatusResponse},
		{&data, typeRecord, v.RecordMTU23, v.Record},
		{&incoming{sealer: machine.sealer}, typeRecord, v.RecordMTU247, v.Record},
	} {
		done := false
		for _, value := range tc.sealed {
			kind, body, whole, err := tc.in.take(unhex(t, value))
			if err != nil {
				t.Fatalf("%x: %v", tc.kind, err)
			}
			if done = whole; whole && (kind != tc.kind || hex.EncodeToString(body) != tc.body) {
				t.Errorf("type %x: body %x, want %s", kind, body, tc.body)
			}
		}
		if !done {
			t.Errorf("message of type %x does not end", tc.kind)
		}
	}
	detail, ours, err := response(unhex(t, v.StatusResponse), 1, opStatus)
	if err != nil || !ours {
		t.Fatalf("status response: %t, %v", ours, err)
	}
	if st, err := decodeStatus(detail); err != nil || st.Machine != v.Machine || len(st.Epochs) != 2 || st.PendingMinor != 480 {
		t.Errorf("status %+v, %v", st, err)
	}
	if rec, err := decodeRecord(unhex(t, v.Record)); err != nil || rec.Seq != 7 || len(rec.Payload) != 200 {
		t.Errorf("record %+v, %v", rec, err)
	}
	list, err := decodeReceipt(&reader{b: unhex(t, v.ReceiptRequest)[3:]})
	if err != nil || len(list) != 1 || schemas.VerifyReceipt(unhex(t, v.MachineKey), v.Machine, list[0]) != nil {
		t.Errorf("receipt %+v, %v", list, err)
	}
}

// keyed is a machine with an id and a key of the file.
type keyed struct {
	*journal
	id  string
	key [32]byte
}

func (k *keyed) ID() string    { return k.id }
func (k *keyed) Key() [32]byte { return k.key }

// TestDocumentQuotesTheCode: what docs/ble.md says in numbers is what the code does.
func TestDocumentQuotesTheCode(t *testing.T) {
	b, err := os.ReadFile("../../docs/ble.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	o := Options{}.withDefaults()
	quotes := []string{
		fmt.Sprintf("u8 major (%d), u8 minor (%d)", Major, Minor), fmt.Sprintf("%d is the most that a gateway grants", Window), fmt.Sprintf("A grant is at most %d", Window),
		fmt.Sprintf("A message has at most %d bytes", maxMessage), fmt.Sprintf("A sealed ticket has at most %d bytes", schemas.MaxSealedTicket),
		fmt.Sprintf("asks for an ATT_MTU of %d", ble.UsualMTU), fmt.Sprintf("%d at least, %d at most", ble.MinMTU, ble.MaxMTU), "`" + prologue + "`",
		fmt.Sprintf("%d bytes Noise message 1", noiseMessage), fmt.Sprintf("STATUS lists at most %d ranges", MaxEpochs), fmt.Sprintf("%d values that wait", maxQueued),
		fmt.Sprintf("no handshake: the link ends | %.0f s", helloTimeout.Seconds()), fmt.Sprintf("no credit: the report ends with code %d | %.0f s", codeNotCompleted, creditTimeout.Seconds()),
		fmt.Sprintf("no request: the link ends | %.0f min", idleTimeout.Minutes()), fmt.Sprintf("no answer to a request: it is repeated, three times in all | %.0f s", o.Reply.Seconds()),
		fmt.Sprintf("no DATA value: the session is given up | %.0f s", o.Idle.Seconds()), fmt.Sprintf("the same credit again every %.0f s", o.Alive.Seconds()),
	}
	for name, code := range map[string]Refusal{
		"version": RefusedVersion, "suite": RefusedSuite, "form": RefusedForm, "foreign": RefusedForeign, "forged": RefusedForged, "expired": RefusedExpired,
		"superseded": RefusedSuperseded, "unavailable": RefusedUnavailable,
	} {
		quotes = append(quotes, fmt.Sprintf("| %s | %d |", name, code))
	}
	for name, op := range map[string]byte{
		"REPORT": opReport, "ABORT": opAbort, "STATUS": opStatus, "FAULT_NOTICE": opFaultNotice, "SET_TIME": opSetTime, "FAULT_CLEARED": opFaultCleared, "RECEIPT": opReceipt,
	} {
		quotes = append(quotes, fmt.Sprintf("| 0x%02x | %s |", op, name))
	}
	m := len(encodeRecord(Record{Payload: repeat('p', 200)})) + messageHead + tagSize
	quotes = append(quotes, fmt.Sprintf("is a message of %d bytes", m))
	for _, mtu := range []int{23, 247, 515} {
		n := len((&segmenter{}).cut(make([]byte, m), mtu-3))
		quotes = append(quotes, fmt.Sprintf("| %d | %d | %d | %d |", mtu, n, m+n, m+4*n))
	}
	for _, q := range quotes {
		if !strings.Contains(text, q) {
			t.Errorf("docs/ble.md does not say %q", q)
		}
	}
	if o.Tries != 3 {
		t.Errorf("%d tries: the document says three", o.Tries)
	}
}
