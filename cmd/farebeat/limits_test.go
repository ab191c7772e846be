package main

import (
	"testing"

	"github.com/farebeat/farebeat/broker"
	"github.com/farebeat/farebeat/configs"
)

func TestDefaultLimitsAreTheBrokers(t *testing.T) {
	if got, want := broker.Limits(configs.Default().Broker.Limits), broker.DefaultLimits(); got != want {
		t.Errorf("the configuration says %+v, the broker %+v", got, want)
	}
}
