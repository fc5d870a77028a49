#!/bin/sh
two
3
4
5
