package worker

import (
	"context"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"github.com/farebeat/farebeat/edge/ble"
)

// A machine that ignores its credits while the agent reads nothing is cut off, and what waits is bounded. The worker goes on.
func TestChildBoundsWhatWaits(t *testing.T) {
	theirs, in := io.Pipe()
	out, answers, err := os.Pipe() // has room for little
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	ended := make(chan struct{}, 1)
	served := make(chan error, 1)
	go func() {
		defer answers.Close()
		served <- Child{In: theirs, Out: answers, Abort: func() { t.Error("it does not end") }, Open: func(context.Context) (Device, error) {
			f := newFake("well")
			f.Set("m1", flooding{ended})
			return f, nil
		}}.Serve(t.Context())
	}()
	say := func(r request) {
		if _, err := in.Write(r.frame().append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	await := func(want kind) report {
		for {
			f, err := readFrame(out)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := f.report(); err != nil || r.kind == want {
				return r
			}
		}
	}
	await(kindReady)
	say(request{kind: kindDial, id: 1, address: "m1"})
	link, _, err := parseDialled(await(kindDone).value)
	if err != nil {
		t.Fatal(err)
	}
	say(request{kind: kindSubscribe, id: 2, link: link, char: ble.CharData})
	await(kindDone)
	say(request{kind: kindWrite, id: 3, link: link, char: ble.CharCredit, value: binary.LittleEndian.AppendUint32(nil, 1<<30)})
	<-ended // nobody read meanwhile
	waiting := 0
	for {
		f, err := readFrame(out)
		if err != nil {
			t.Fatal(err)
		}
		if f.kind == kindClosed {
			break
		}
		waiting++
	}
	if waiting < maxOutgoing || waiting > maxOutgoing+2000 {
		t.Errorf("%d frames waited", waiting)
	}
	say(request{kind: kindPing, id: 4})
	await(kindPong)
	in.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// flooding is a machine that says when its link ended.
type flooding struct{ ended chan struct{} }

func (f flooding) Advertise() ble.Advertisement { return (&machine{}).Advertise() }

func (f flooding) Connect(p ble.Port) ble.Handler {
	return &floodingEnd{Handler: (&machine{}).Connect(p), ended: f.ended}
}

type floodingEnd struct {
	ble.Handler
	ended chan struct{}
}

func (f *floodingEnd) Closed() {
	f.Handler.Closed()
	f.ended <- struct{}{}
}
