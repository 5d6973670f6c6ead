//! The words of `cuda/` in a build without GPUs: nothing of them is ever made.

use std::convert::Infallible;

use super::device::{DeviceBatch, DeviceOutput, Pairs, Sequence};
use super::host::Host;
use super::{DeviceBytes, HParams, Trace, VisionHParams};
use crate::Result;
use crate::cache::{CacheShape, KvCache};
use crate::position::RotaryTable;

pub(super) struct DeviceLayers(Infallible);

pub(super) struct DeviceScratch(Infallible);

pub(super) struct DeviceTower(Infallible);

impl DeviceLayers {
    pub(super) fn first(&self) -> usize {
        match self.0 {}
    }

    pub(super) fn warning(&self) -> Option<String> {
        match self.0 {}
    }

    pub(super) fn has_head(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn has_embd(&self) -> bool {
        match self.0 {}
    }

    pub(super) fn bytes(&self, _: &HParams, _: &CacheShape, _: usize) -> Result<DeviceBytes> {
        match self.0 {}
    }

    pub(super) fn place(&self, _: &mut KvCache) -> Result<()> {
        match self.0 {}
    }

    pub(super) fn scratch(&self, _: &HParams, _: usize) -> Result<DeviceScratch> {
        match self.0 {}
    }

    pub(super) fn forward(
        &self,
        _: &DeviceBatch<'_>,
        _: &mut [Sequence<'_>],
        _: &mut DeviceScratch,
        _: DeviceOutput<'_>,
    ) -> Result<()> {
        match self.0 {}
    }

    pub(super) fn last_logits(&self, _: &HParams, _: &mut DeviceScratch, _: &mut Vec<f32>) -> Result<()> {
        match self.0 {}
    }
}

impl DeviceTower {
    pub(super) fn n_bytes(_: &VisionHParams, _: usize) -> usize {
        0
    }

    pub(super) fn reserve(&self, _: &VisionHParams, _: usize) -> Result<()> {
        match self.0 {}
    }

    pub(super) fn begin(&self, _: &VisionHParams, _: &[f32], _: &Pairs<Host>, _: &RotaryTable) -> Result<bool> {
        match self.0 {}
    }

    pub(super) fn encode(
        &self,
        _: &VisionHParams,
        _: &[f32],
        _: &Pairs<Host>,
        _: &RotaryTable,
        _: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        match self.0 {}
    }

    pub(super) fn finish(&self, _: &VisionHParams, _: usize) -> Result<Vec<f32>> {
        match self.0 {}
    }

    pub(super) fn abandon(&self) {
        match self.0 {}
    }
}
