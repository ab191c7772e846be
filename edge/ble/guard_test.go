package ble

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
)

func machineGuard() *peripheralGuard {
	return &peripheralGuard{writable: []uint16{5, 8, 14}, configs: []uint16{6, 9, 12}}
}

func TestPeripheralGuard(t *testing.T) {
	refused := func(opcode byte, handle uint16, code byte) []byte { return attErrorResponse(opcode, handle, code) }
	for name, tc := range map[string]struct {
		p      []byte
		pass   bool
		answer []byte
	}{
		"MTU":                             {[]byte{attMTURequest, 247, 0}, true, nil},
		"MTU below 23":                    {[]byte{attMTURequest, 22, 0}, false, refused(attMTURequest, 0, attInvalidPDU)},
		"MTU of one byte":                 {[]byte{attMTURequest}, false, refused(attMTURequest, 0, attInvalidPDU)},
		"find information":                {[]byte{attFindInfoRequest, 1, 0, 9, 0}, true, nil},
		"find information, short":         {[]byte{attFindInfoRequest, 1, 0, 9}, false, refused(attFindInfoRequest, 1, attInvalidPDU)},
		"read":                            {[]byte{attReadRequest, 3, 0}, true, nil},
		"read, long":                      {[]byte{attReadRequest, 3, 0, 0}, false, refused(attReadRequest, 3, attInvalidPDU)},
		"services":                        {[]byte{attReadByGroupRequest, 1, 0, 255, 255, 0, 0x28}, true, nil},
		"services behind the one":         {[]byte{attReadByGroupRequest, 2, 0, 255, 255, 0, 0x28}, false, refused(attReadByGroupRequest, 2, attNotFound)},
		"groups of another type":          {[]byte{attReadByGroupRequest, 1, 0, 255, 255, 1, 0x28}, false, refused(attReadByGroupRequest, 1, attUnsupportedGroup)},
		"groups of a long type":           {append([]byte{attReadByGroupRequest, 1, 0, 255, 255}, make([]byte, 16)...), false, refused(attReadByGroupRequest, 1, attUnsupportedGroup)},
		"subscription":                    {[]byte{attWriteRequest, 6, 0, 1, 0}, true, nil},
		"subscription of one byte":        {[]byte{attWriteRequest, 6, 0, 1}, false, refused(attWriteRequest, 6, attInvalidPDU)},
		"write request to a value":        {[]byte{attWriteRequest, 5, 0, 1, 0}, false, refused(attWriteRequest, 5, attWriteNotPermitted)},
		"write command":                   {[]byte{attWriteCommand, 5, 0, 1}, true, nil},
		"write command without a value":   {[]byte{attWriteCommand, 5, 0}, false, nil},
		"write command to a subscription": {[]byte{attWriteCommand, 6, 0, 1}, false, nil},
		"write command to nothing":        {[]byte{attWriteCommand, 99, 0, 1}, false, nil},
		"prepare of one byte":             {[]byte{0x16}, false, refused(0x16, 0, attNotSupported)},
		"execute without prepare":         {[]byte{0x18, 1}, false, refused(0x18, 0, attNotSupported)},
		"read blob":                       {[]byte{0x0c, 3, 0, 9, 0}, false, refused(0x0c, 3, attNotSupported)},
		"signed write command":            {append([]byte{0xd2, 5, 0}, make([]byte, 13)...), false, nil},
		"confirmation":                    {[]byte{attConfirmation}, false, nil},
		"an answer":                       {[]byte{attWriteResponse}, false, nil},
		"opcode 0":                        {[]byte{0}, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			pass, answer, err := machineGuard().in(tc.p)
			if pass != tc.pass || !bytes.Equal(answer, tc.answer) || err != nil {
				t.Errorf("pass %v, answer % x, %v; want %v, % x", pass, answer, err, tc.pass, tc.answer)
			}
		})
	}
	t.Run("a second MTU", func(t *testing.T) {
		g := machineGuard()
		if pass, _, _ := g.in([]byte{attMTURequest, 247, 0}); !pass {
			t.Error("the first is refused")
		}
		if pass, answer, _ := g.in([]byte{attMTURequest, 23, 0}); pass || !bytes.Equal(answer, refused(attMTURequest, 0, attNotSupported)) {
			t.Errorf("pass %v, % x", pass, answer)
		}
	})
}

func TestCentralGuard(t *testing.T) {
	readByType := []byte{attReadByTypeRequest, 5, 0, 20, 0, 3, 0x28}
	chars := func(entries ...[3]byte) []byte {
		p := []byte{attReadByTypeResponse, 7}
		for _, e := range entries {
			p = append(p, e[0], 0, e[1], e[2], 0, 1, 0x2a)
		}
		return p
	}
	const pass, drop, end = "pass", "drop", "end"
	for name, tc := range map[string]struct {
		asked, answered, in []byte
		want                string
		answer              []byte
	}{
		"the answer":                          {asked: []byte{attReadRequest, 3, 0}, in: []byte{attReadResponse, 1}, want: pass},
		"an empty value":                      {asked: []byte{attReadRequest, 3, 0}, in: []byte{attReadResponse}, want: pass},
		"its error":                           {asked: []byte{attReadRequest, 3, 0}, in: []byte{attError, attReadRequest, 3, 0, 2}, want: pass},
		"an error of something else":          {asked: []byte{attReadRequest, 3, 0}, in: []byte{attError, attWriteRequest, 3, 0, 2}, want: drop},
		"a short error":                       {asked: []byte{attReadRequest, 3, 0}, in: []byte{attError, attReadRequest, 3}, want: drop},
		"another answer":                      {asked: []byte{attReadRequest, 3, 0}, in: []byte{attWriteResponse}, want: drop},
		"an answer to nothing":                {in: []byte{attWriteResponse}, want: drop},
		"an answer to a command":              {asked: []byte{attWriteCommand, 3, 0, 1}, in: []byte{attWriteResponse}, want: drop},
		"opcode 0 without a question":         {in: []byte{0}, want: drop},
		"opcode 1 without a question":         {in: []byte{1}, want: drop},
		"a request":                           {in: []byte{attReadRequest, 3, 0}, want: drop, answer: attErrorResponse(attReadRequest, 0, attNotSupported)},
		"an MTU request":                      {in: []byte{attMTURequest, 5, 0}, want: drop, answer: attErrorResponse(attMTURequest, 0, attNotSupported)},
		"an indication":                       {in: []byte{attIndication, 3, 0, 1}, want: drop, answer: []byte{attConfirmation}},
		"a command":                           {in: []byte{attWriteCommand, 3, 0, 1}, want: drop},
		"a notification nobody wants":         {in: []byte{attNotification, 4, 0, 1}, want: drop},
		"a notification before subscription":  {asked: []byte{attWriteRequest, 8, 0, 1, 0}, in: []byte{attNotification, 5, 0, 1}, want: drop},
		"a notification":                      {asked: []byte{attWriteRequest, 6, 0, 1, 0}, answered: []byte{attWriteResponse}, in: []byte{attNotification, 5, 0, 1}, want: pass},
		"a notification without a value":      {asked: []byte{attWriteRequest, 6, 0, 1, 0}, answered: []byte{attWriteResponse}, in: []byte{attNotification, 5, 0}, want: pass},
		"a notification in between":           {asked: []byte{attWriteRequest, 6, 0, 1, 0}, in: []byte{attNotification, 5, 0, 1}, want: drop},
		"half a notification":                 {asked: []byte{attWriteRequest, 6, 0, 1, 0}, in: []byte{attNotification, 5}, want: end},
		"a write response with a value":       {asked: []byte{attWriteRequest, 6, 0, 1, 0}, in: []byte{attWriteResponse, 1}, want: end},
		"characteristics":                     {asked: readByType, in: chars([3]byte{5, 2, 6}, [3]byte{8, 2, 9}), want: pass},
		"characteristics before the question": {asked: readByType, in: chars([3]byte{4, 2, 6}), want: end},
		"characteristics that repeat":         {asked: readByType, in: chars([3]byte{5, 2, 6}, [3]byte{5, 2, 6}), want: end},
		"value before its declaration":        {asked: readByType, in: chars([3]byte{6, 2, 5}), want: end},
		"value at its declaration":            {asked: readByType, in: chars([3]byte{6, 2, 6}), want: end},
		"no characteristics":                  {asked: readByType, in: []byte{attReadByTypeResponse, 7}, want: end},
		"half a characteristic":               {asked: readByType, in: chars([3]byte{5, 2, 6})[:8], want: end},
		"characteristics of length 0":         {asked: readByType, in: []byte{attReadByTypeResponse, 0, 1}, want: end},
		"no length":                           {asked: readByType, in: []byte{attReadByTypeResponse}, want: end},
		"value handle ffff":                   {asked: readByType, in: []byte{attReadByTypeResponse, 7, 5, 0, 2, 0xff, 0xff, 0, 0x2a}, want: end},
		"descriptors":                         {asked: []byte{attFindInfoRequest, 3, 0, 9, 0}, in: []byte{attFindInfoResponse, 1, 3, 0, 2, 0x29}, want: pass},
		"descriptors of format 3":             {asked: []byte{attFindInfoRequest, 3, 0, 9, 0}, in: []byte{attFindInfoResponse, 3, 3, 0, 2, 0x29}, want: end},
		"descriptors before the question":     {asked: []byte{attFindInfoRequest, 3, 0, 9, 0}, in: []byte{attFindInfoResponse, 1, 2, 0, 2, 0x29}, want: end},
		"service that ends before it begins":  {asked: []byte{attReadByGroupRequest, 1, 0, 255, 255, 0, 0x28}, in: []byte{attReadByGroupReply, 6, 5, 0, 4, 0, 0, 0x18}, want: end},
		"an answer to read blob":              {asked: []byte{0x0c, 3, 0, 0, 0}, in: []byte{0x0d, 1, 2}, want: end},
	} {
		t.Run(name, func(t *testing.T) {
			g := &centralGuard{}
			g.subscribe(6, 5)
			if tc.asked != nil {
				g.out(tc.asked)
			}
			if tc.answered != nil {
				if ok, _, err := g.in(tc.answered); !ok || err != nil {
					t.Fatalf("the answer: %t, %v", ok, err)
				}
			}
			ok, answer, err := g.in(tc.in)
			got := drop
			switch {
			case err != nil:
				got = end
			case ok:
				got = pass
			}
			if got != tc.want || !bytes.Equal(answer, tc.answer) {
				t.Errorf("%s, answer % x, %v; want %s, % x", got, answer, err, tc.want, tc.answer)
			}
			if tc.asked != nil && isRequest(tc.asked[0]) && tc.in[0] == tc.asked[0]+1 && ok {
				if again, _, _ := g.in(tc.in); again {
					t.Error("the answer passes twice")
				}
			}
		})
	}
}

// packets cuts fuzz input: a length byte, then the packet.
func packets(b []byte) (list [][]byte) {
	for len(b) > 0 {
		n := min(int(b[0]), len(b)-1)
		list, b = append(list, b[1:1+n]), b[1+n:]
	}
	return list
}

func pack(list ...[]byte) (b []byte) {
	for _, p := range list {
		b = append(append(b, byte(len(p))), p...)
	}
	return b
}

// Whatever a gateway sends, the machine's end of go-ble neither panics nor hangs, and the next
// gateway is served.
func FuzzMachineEnd(f *testing.F) {
	f.Add(pack([]byte{attMTURequest, 247, 0}, []byte{attReadByGroupRequest, 1, 0, 255, 255, 0, 0x28}, []byte{attReadByTypeRequest, 1, 0, 255, 255, 3, 0x28}))
	f.Add(pack([]byte{attFindInfoRequest, 1, 0, 255, 255}, []byte{attWriteRequest, 6, 0, 1, 0}, []byte{attWriteCommand, 5, 0, 1, 2, 3}))
	f.Add(pack([]byte{attWriteRequest, 6, 0, 1}, []byte{0x18, 1}, []byte{0x16}, []byte{attConfirmation}, []byte{attMTURequest}))
	f.Add(pack([]byte{attFindByTypeRequest, 1, 0, 255, 255, 0, 0x28, 1}, []byte{attReadByTypeRequest, 1, 0, 255, 255, 2, 0x29}))
	f.Add(pack([]byte{attReadByTypeRequest, 2, 0, 2, 0, 0, 0x28}, []byte{attReadRequest, 3, 0}, []byte{attReadRequest, 6, 0}))
	f.Add(pack([]byte{attWriteRequest, 6, 0, 2, 0}, []byte{attWriteRequest, 6, 0, 0, 0}, []byte{attWriteRequest, 6, 0, 3, 0}))
	uuid := uuidOf(CharInfo)
	f.Add(pack(append([]byte{attReadByTypeRequest, 1, 0, 255, 255}, uuid...), []byte{attMTURequest, 0xff, 0xff}, append([]byte{attReadByTypeRequest, 1, 0, 255, 255}, uuid...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			central, peripheral := newAirPair(Faults{})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = servePeripheral(peripheral, "m1", MaxMTU, &parrot{info: []byte("version 1")})
			}()
			go func() {
				for {
					if _, err := central.receive(); err != nil {
						return
					}
				}
			}()
			for _, p := range packets(b) {
				if central.send(slices.Clone(p)) != nil {
					break
				}
			}
			synctest.Wait()
			_ = central.close()
			<-ended
		})
	})
}

// Whatever a machine answers, the gateway's end of go-ble neither panics nor hangs.
func FuzzGatewayEnd(f *testing.F) {
	f.Add(byte(1), []byte{3, attMTUResponse, 0, 0})
	f.Add(byte(2), pack([]byte{attReadByGroupReply, 0, 1, 0, 5, 0, 0, 0x18}))
	f.Add(byte(3), pack([]byte{attReadByTypeResponse, 7, 2, 0, 2, 0, 0, 0, 0x2a}))
	f.Add(byte(5), pack([]byte{attFindInfoResponse, 1, 0xff, 0xff, 2, 0x29}))
	f.Add(byte(9), pack([]byte{attNotification}, []byte{attNotification, 1}, []byte{}, []byte{attWriteResponse}))
	f.Add(byte(11), pack([]byte{attMTURequest, 5, 0}, []byte{attIndication, 3, 0}, []byte{attReadResponse}))
	f.Fuzz(func(t *testing.T, n byte, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			air := NewAir()
			air.Set("m1", &parrot{info: []byte("version 1")})
			list := packets(b)
			// The machine behaves up to its nth packet; these come instead from then on.
			air.Spoil("m1", Faults{Corrupt: func(i int, p []byte) []byte {
				if k := i - int(n%32); k >= 0 && k < len(list) {
					return slices.Clone(list[k])
				}
				return p
			}})
			if l, err := air.Dial(t.Context(), "m1"); err == nil {
				_, _ = l.ReadInfo(t.Context())
				for _, c := range []Char{CharSession, CharControl, CharData} {
					_ = l.Subscribe(t.Context(), c, func([]byte) {})
				}
				_ = l.Write(t.Context(), CharControl, []byte("say"))
				_ = l.Write(t.Context(), CharCredit, []byte{40, 0})
				synctest.Wait()
				_ = l.Close()
			}
			air.Set("m1", nil)
			air.Wait()
		})
	})
}
