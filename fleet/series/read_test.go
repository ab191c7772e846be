package series

import (
	"encoding/json"
	"testing"
)

// What an InfluxDB, or something else at its address, answers is points or an error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"results":[{"statement_id":0,"series":[{"name":"online","tags":{"route":"36"},"columns":["time","n","known","expected","threshold","min","max","blind"],"values":[[1795435200,4,6,5,3,2,5,0],[1795435260,null,6,5,3,2,5,0]]}]}]}`))
	f.Add([]byte(`{"results":[{"error":"database not found: x"}]}`))
	f.Add([]byte(`{"error":"unable to parse"}`))
	f.Add([]byte(`{"results":[{"series":[{"columns":["time"],"values":[[1,2]]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a answer
		if json.Unmarshal(b, &a) != nil {
			return
		}
		_ = a.each(func(_ string, v []float64) {
			if len(v) != columns {
				t.Errorf("%d columns", len(v))
			}
		})
	})
}
